"""Write summary.md: our numbers by number of shots, then beside the published ones.

The page presents `summary.csv`. Its tables are aligned, so that they read well in a terminal too.
Numbers are percent with one decimal; "n/a" means undefined, "-" not published.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from utils.evaluation.metrics import METRICS
from utils.files import write_text
from utils.results.folder import read_record
from utils.results.methods import has_maps, method_name, method_of, variant_of
from utils.results.scores import run_name
from utils.results.summary import (
    MEAN,
    MEAN_OF,
    PAPERS,
    load_sources,
    metrics_of,
    others_beside,
    published_beside,
    read_summary,
)

UNDEFINED = "n/a"
UNPUBLISHED = "-"


def write_summary_page(folder: Path) -> str:
    """Write summary.md from summary.csv and settings.json of `folder`; return its text."""
    page = summary_page(read_summary(folder), read_record(folder))
    write_text(folder / "summary.md", page)
    return page


def summary_page(summary: pd.DataFrame, record: Mapping) -> str:
    """Return the page as Markdown.

    `summary` has the SUMMARY_COLUMNS of summary.csv; of `record` (settings.json) the page shows
    `title` and `notes`, and compares the number of finished categories with `categories`.
    """
    settings = record["settings"]
    summary = shown_rows(summary, record)
    blocks = [f"# {run_title(record)}", *(f"**{note}**" for note in record["notes"])]
    blocks.append(legend(record, summary))
    finished = summary.loc[~is_mean(summary), "category"].nunique()
    total = len(record["categories"])
    for shots, rows in summary.groupby("shots"):
        name = run_name(shots, variant=variant_of(settings))
        blocks.append(f"## {name}{seeds_text(rows, record)}")
        for heading, metrics in metric_blocks(rows).items():
            blocks += [f"{heading}:"] if heading else []
            blocks.append(our_table(rows, metrics, mean_label(finished, total)))
        blocks += undefined_notes(rows) if record["draws_references"] else []
    published = summary[has_published(summary)]
    for shots, rows in published[~is_mean(published)].groupby("shots"):
        title = f"## {shots}-shot beside published results, by category"
        blocks += [title, published_table(rows, "category")]
    means = published[published["category"] == MEAN]
    if len(means):
        title = f"## Mean over {finished} categories beside published results"
        blocks += [title, published_table(means, "shots")]
    elif finished != total and not published_beside(settings).empty:
        blocks.append(
            f"No published mean is shown: the published means are over all {total} categories, "
            f"ours is over {finished}."
        )
    sources = source_names(published, settings)
    blocks += [f"{name}: {describe_source(source)}" for name, source in sources.items()]
    blocks += other_notes(settings, set(summary["shots"]))
    return "\n\n".join(blocks) + "\n"


def run_title(record: Mapping) -> str:
    """Return the title of the pages of a run: its method and its benchmark."""
    return f"{method_name(record['settings'])} on {record['title']}"


def legend(record: Mapping, rows: pd.DataFrame) -> str:
    """Say what the numbers in some `shown_rows` are; `record` is settings.json."""
    sentences = ["All numbers are in percent."]
    if rows[["std", "paper_std"]].notna().any(axis=None):
        sentences.append("± is the sample standard deviation over seeds.")
        if is_mean(rows).any():
            sentences.append("Means are taken over categories within each seed, then over seeds.")
    if not has_pixels(rows).any():
        missing = "usable masks" if has_maps(record["settings"]) else "maps"
        sentences.append(f"Without {missing}, there are no pixel metrics.")
    return " ".join(sentences)


def shown_rows(summary: pd.DataFrame, record: Mapping) -> pd.DataFrame:
    """Leave out the mean of custom images, which are one category, and metrics that lack masks."""
    if not record["draws_references"]:
        summary = summary[~is_mean(summary)]
    pixels = has_pixels(summary)
    return summary[~pixels] if summary.loc[pixels, "mean"].isna().all() else summary


def has_pixels(rows: pd.DataFrame) -> pd.Series:
    """Return a bool for each row: True for a metric that needs masks."""
    return rows["metric"].str.startswith(("pixel_", "mean_of_seven"))


def is_mean(rows: pd.DataFrame) -> pd.Series:
    """Return a bool for each row: True if it is a mean over categories."""
    return rows["category"].eq(MEAN) | rows["category"].str.startswith(MEAN_OF)


def shots_labels(rows: pd.DataFrame, settings: Mapping) -> pd.DataFrame:
    """Return rows whose column `shots` is text for a table: "0", "4" or "4, patch tokens"."""
    variant = variant_of(settings)
    names = [run_name(shots, variant=variant).replace("-shot", "") for shots in rows["shots"]]
    return rows.assign(shots=names)


def has_published(rows: pd.DataFrame) -> pd.Series:
    """Return a bool for each row: True if the paper or the closest public code has its number."""
    return rows[["paper", "public"]].notna().any(axis=1)


def count_categories(finished: int, total: int) -> str:
    """Say how many of a benchmark's categories are finished.

    >>> count_categories(1, 1), count_categories(12, 12), count_categories(1, 12)
    ('1 category', '12 categories', '1 of 12 categories')
    """
    noun = "category" if total == 1 else "categories"
    return f"{finished} {noun}" if finished == total else f"{finished} of {total} {noun}"


def mean_label(finished: int, total: int) -> str:
    """Return the name of the row of means: "mean", or "mean of 2/15" while some are missing."""
    return MEAN if finished == total else f"{MEAN_OF}{finished}/{total}"


def metric_blocks(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Group the metrics in `rows` into tables; the one of the seven METRICS has the heading ""."""
    blocks = {}
    for metric in metrics_of(rows):
        size = metric.partition("@")[2]
        if size:
            heading = "At the size of each image" if size == "source" else f"At {size} pixels"
        else:
            heading = "" if metric in METRICS else "Further metrics"
        blocks.setdefault(heading, []).append(metric)
    return blocks


def our_table(rows: pd.DataFrame, metrics: Sequence[str], label: str) -> str:
    """Format our numbers for one number of shots: one row per category, one column per metric.

    `label` names the row of means.
    """
    body = []
    for category, numbers in rows.groupby("category", sort=False):
        cells = dict(zip(numbers["metric"], map(our_cell, numbers.itertuples()), strict=True))
        name = label if category == MEAN else category
        body.append([name, *(cells[metric] for metric in metrics)])
    return table(["category", *metrics], body, text_columns=1)


def published_table(rows: pd.DataFrame, by: str) -> str:
    """Format the `source_rows`; metrics without published numbers are left out."""
    metrics = metrics_of(rows)
    return table([by, "source", *metrics], source_rows(rows, by, metrics), text_columns=2)


def source_rows(rows: pd.DataFrame, by: str, metrics: Sequence[str]) -> list[list[str]]:
    """Return the paper's, the closest public and our numbers for each value of the column `by`.

    A row has this value, the source, and a cell for each metric. Sources without numbers are left
    out.
    """
    body = []
    for key, numbers in rows.groupby(by, sort=False):
        by_metric = {row.metric: row for row in numbers.itertuples()}
        sources = {"paper": {m: cell(r.paper, r.paper_std) for m, r in by_metric.items()}}
        for name in numbers["public_source"].dropna().unique():
            sources[name] = {m: cell(r.public) for m, r in by_metric.items()}
        for name, cells in sources.items():
            texts = [cells.get(metric) or UNPUBLISHED for metric in metrics]
            if set(texts) != {UNPUBLISHED}:
                body.append([str(key), name, *texts])
        ours = {m: our_cell(r) for m, r in by_metric.items()}
        body.append([str(key), "ours", *(ours.get(metric, UNPUBLISHED) for metric in metrics)])
    return body


def undefined_notes(rows: pd.DataFrame) -> list[str]:
    """Return a sentence for the metrics without a mean: they are undefined in some categories."""
    by_category = rows[~is_mean(rows)]
    total = by_category["category"].nunique()
    undefined = by_category[by_category["mean"].isna()].groupby("metric", sort=False)["category"]
    metrics = {}
    for metric, names in undefined:
        metrics.setdefault(len(names), []).append(metric)
    return [
        f"No mean of {', '.join(names)}: undefined in {count} of {total} categories."
        for count, names in metrics.items()
    ]


def source_names(rows: pd.DataFrame, settings: Mapping) -> dict[str, str]:
    """Return the sources of the published numbers beside ours: name in the tables to source."""
    names = {"paper": PAPERS[method_of(settings)]} if rows["paper"].notna().any() else {}
    return names | {name: name for name in rows["public_source"].dropna().unique()}


def describe_source(source: str) -> str:
    """Return the description, known departures and link of a source in one line."""
    facts = load_sources()[source]
    departures = f" ({facts['departures']})" if facts["departures"] else ""
    return f"{facts['description']}{departures}, {facts['link']}"


def other_notes(settings: Mapping, shots: Collection[int]) -> list[str]:
    """Say for each number of shots how many other sources publish means of the dataset."""
    method, notes = method_of(settings), []
    for count, rows in others_beside(settings, shots).groupby("shots"):
        methods = rows.groupby("source")["method"].first()
        foreign = int((methods != method).sum())
        sources = f"{len(methods)} source{'' if len(methods) == 1 else 's'}"
        which = "all" if foreign == len(methods) else f"{foreign}"
        sources += f", {which} of other methods" if foreign else ""
        notes.append(f"Other published {count}-shot means: {sources}, listed in report.html.")
    return notes


def seeds_text(rows: pd.DataFrame, record: Mapping) -> str:
    """Return ", 5 seeds": the number of seeds averaged over; "" where nothing was drawn."""
    runs = rows["runs"].iloc[0]
    if rows["shots"].iloc[0] == 0 or not record["draws_references"]:
        return ""
    return f", {runs} seed" if runs == 1 else f", {runs} seeds"


def our_cell(row) -> str:
    """Format our number of a summary row: `93.1 ± 2.0`, or n/a if the metric is undefined."""
    return cell(row.mean, row.std) or UNDEFINED


def cell(mean: float, std: float = float("nan")) -> str:
    """Format `93.1 ± 2.0`; `93.1` without a deviation; "" without a mean."""
    if pd.isna(mean):
        return ""
    return f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"


def difference(value: float) -> str:
    """Format ours minus theirs with its sign: `+0.4`, `−1.2`."""
    if pd.isna(value):
        return UNDEFINED
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Format an aligned Markdown table; all but the first `text_columns` are flush right."""
    columns = zip(header, *rows, strict=True)
    widths = [max(2, *map(len, column)) for column in columns]  # a rule needs a hyphen and a colon

    def line(cells: Sequence[str]) -> str:
        padded = (
            text.ljust(width) if index < text_columns else text.rjust(width)
            for index, (text, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if index < text_columns else "-" * (width - 1) + ":"
        for index, width in enumerate(widths)
    ]
    return "\n".join([line(header), line(rule), *map(line, rows)])

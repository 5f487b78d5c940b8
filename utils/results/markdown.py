"""The page `summary.md`: one table per number of shots, then our numbers beside published ones.

Pure text from a summary (`utils.results.summary.summarise`), aligned so that it reads in a terminal as
well as rendered. Numbers are percent with one decimal; n/a is undefined, - is not published.
"""

from collections.abc import Sequence

import pandas as pd

from utils.evaluation.metrics import METRICS
from utils.results.published import MEAN, MEAN_OF, PAPER, SOURCES

UNDEFINED = "n/a"
UNPUBLISHED = "-"
LEGEND = (
    "Percent; ± is the sample standard deviation over seeds. The mean row is the mean over "
    "categories within each seed, then over seeds."
)


def summary_page(
    summary: pd.DataFrame, dataset: str, categories: Sequence[str], notes: Sequence[str]
) -> str:
    """The whole page as Markdown. `categories` is the dataset's full official list."""
    parts = [f"# WinCLIP on {dataset}", *(f"**{note}**" for note in notes), LEGEND]
    here = summary.loc[~is_mean(summary), "category"].nunique()
    label = MEAN if here == len(categories) else f"mean of {here}/{len(categories)}"
    for shots, part in summary.groupby("shots"):
        parts += [f"## {shots}-shot{seeds_text(part)}", own_table(part, label)]
        parts += undefined_notes(part)
    published = summary[summary[["paper", "public"]].notna().any(axis=1)]
    per_category = published[~is_mean(published)]
    for shots, part in per_category.groupby("shots"):
        title = f"## {shots}-shot beside published results, by category"
        parts += [title, comparison_table(part, "category")]
    means = published[published["category"] == MEAN]
    if len(means):
        title = f"## Mean over {here} categories beside published results"
        parts += [title, comparison_table(means, "shots")]
    elif here != len(categories):
        parts.append(
            f"No published mean stands here: it is over {len(categories)} categories, ours is "
            f"over {here}."
        )
    parts += source_notes(published)
    return "\n\n".join(parts) + "\n"


def is_mean(rows: pd.DataFrame) -> pd.Series:
    """Which rows are means over categories."""
    return rows["category"].eq(MEAN) | rows["category"].str.startswith(MEAN_OF)


def own_table(part: pd.DataFrame, mean_label: str) -> str:
    """Our numbers at one number of shots: a row per category and the mean, a column per metric."""
    metrics = metrics_of(part)
    rows = []
    for category, numbers in part.groupby("category", sort=False):
        cells = dict(zip(numbers["metric"], map(ours, numbers.itertuples()), strict=True))
        name = mean_label if category == MEAN else category
        rows.append([name, *(cells[metric] for metric in metrics)])
    return table(["category", *metrics], rows, left=1)


def comparison_table(part: pd.DataFrame, by: str) -> str:
    """Paper, public and our numbers under each other, for each value of the column `by`.

    Only metrics, and rows of a source, that are published.
    """
    metrics = metrics_of(part)
    rows = []
    for key, numbers in part.groupby(by, sort=False):
        by_metric = {row.metric: row for row in numbers.itertuples()}
        sources = {"paper": {m: cell(r.paper, r.paper_std) for m, r in by_metric.items()}}
        for name in numbers["public_source"].dropna().unique():
            sources[name] = {m: cell(r.public) for m, r in by_metric.items()}
        for name, cells in sources.items():
            found = [cells.get(metric) or UNPUBLISHED for metric in metrics]
            if set(found) != {UNPUBLISHED}:
                rows.append([str(key), name, *found])
        own = {m: ours(r) for m, r in by_metric.items()}
        rows.append([str(key), "ours", *(own.get(metric, UNPUBLISHED) for metric in metrics)])
    return table([by, "source", *metrics], rows, left=2)


def undefined_notes(part: pd.DataFrame) -> list[str]:
    """A sentence for each metric that has no mean because it is undefined in some category."""
    rows = part[~is_mean(part) & part["mean"].isna()]
    total = part.loc[~is_mean(part), "category"].nunique()
    return [
        f"{metric}: undefined in {len(names)} of {total} categories, so it has no mean."
        for metric, names in rows.groupby("metric", sort=False)["category"]
    ]


def source_notes(published: pd.DataFrame) -> list[str]:
    """A sentence for each source whose numbers stand on the page."""
    notes = [f"paper: {SOURCES[PAPER]}"] if published["paper"].notna().any() else []
    names = published["public_source"].dropna().unique()
    return notes + [f"{name}: {SOURCES[name]}" for name in names]


def seeds_text(part: pd.DataFrame) -> str:
    """How many seeds a table averages over; nothing for 0 shots, which has none."""
    runs = part["runs"].iloc[0]
    if part["shots"].iloc[0] == 0:
        return ""
    return f", {runs} seed" if runs == 1 else f", {runs} seeds"


def metrics_of(part: pd.DataFrame) -> list[str]:
    """The metrics that `part` has, in the order of METRICS."""
    return [metric for metric in METRICS if metric in set(part["metric"])]


def ours(row) -> str:
    """Our cell of a summary row: `93.1 ± 2.0`, or n/a where the metric is undefined."""
    return cell(row.mean, row.std) or UNDEFINED


def cell(mean: float, std: float = float("nan")) -> str:
    """`93.1 ± 2.0`; `93.1` without a deviation; empty without a mean."""
    if pd.isna(mean):
        return ""
    return f"{mean:.1f}" if pd.isna(std) else f"{mean:.1f} ± {std:.1f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table with aligned columns; the first `left` columns are text, flush left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            text.ljust(width) if index < left else text.rjust(width)
            for index, (text, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if index < left else "-" * (width - 1) + ":"
        for index, width in enumerate(widths)
    ]
    return "\n".join([line(header), line(rule), *map(line, rows)])

"""Write a comparison as Markdown, CSV, LaTeX and a page for the browser."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from utils.compare.tables import PIXELS, Comparison
from utils.files import write_text
from utils.report.markdown import UNDEFINED, UNPUBLISHED, cell, count_categories, table
from utils.results.latex import escape, latex_float, latex_table
from utils.results.summary import MEAN, metric_title

LEGEND = (
    "Percent, means over {categories}; ± is the sample standard deviation over seeds. "
    "Differences are relative to {first}. The interval (95 %) and the two-sided p-value come from "
    "the variance over images (for AUROC, from pairs of images; for the other metrics, from random "
    "halves of the images of each category) and between seeds; p-values are not corrected for the "
    "number of comparisons. Wins, ties and losses count categories; differences below 0.005 are "
    "ties."
)
NO_DIFFERENCES = "No differences are recorded."
HEADER = ["metric", "result", MEAN, "difference", "95 % interval", "p", "wins / ties / losses"]
MARKS = {1: r"\textbf{%s}", 2: r"\underline{%s}"}  # of the best and the second-best number


def write_comparison(comparison: Comparison, folder: Path) -> str:
    """Write comparison.md, .csv, .tex and .html into `folder`; return the Markdown."""
    text = markdown_page(comparison)
    write_text(folder / "comparison.md", text)
    write_text(folder / "comparison.csv", comparison.table.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "comparison.tex", latex_floats(comparison, folder.name))
    write_text(folder / "comparison.html", html_page(comparison))
    return text


def legend(comparison: Comparison) -> str:
    """Say what the numbers are."""
    count = len(comparison.categories)
    return LEGEND.format(categories=count_categories(count, count), first=comparison.names[0])


def shot_tables(comparison: Comparison) -> Iterator[tuple[int, pd.DataFrame]]:
    """Yield each number of shots with its means over categories."""
    means = comparison.table[comparison.table["category"] == MEAN]
    yield from means.groupby("shots")


def markdown_page(comparison: Comparison) -> str:
    """Return the comparison as Markdown: first how the runs differ, then a table per shots."""
    blocks = [f"# {', '.join(comparison.names)}", *(f"**{note}**" for note in comparison.notes)]
    blocks.append("## Differences between the runs")
    if comparison.differences:
        header = ["kind", "name", *comparison.names]
        blocks.append(table(header, comparison.differences, text_columns=len(header)))
    else:
        blocks.append(NO_DIFFERENCES)
    blocks += comparison.remarks
    blocks += ["## Results", legend(comparison), PIXELS, *comparison.reasons]
    for shots, rows in shot_tables(comparison):
        body = [statistics_cells(row, comparison) for row in rows.itertuples()]
        blocks += [f"### {shots}-shot", table(HEADER, body, text_columns=2)]
    return "\n\n".join(blocks) + "\n"


def statistics_cells(row, comparison: Comparison) -> list[str]:
    """Return the cells of one mean under HEADER; those of the first result have no difference."""
    cells = [metric_title(row.metric), row.result, cell(row.mean, row.std) or UNDEFINED]
    if row.result == comparison.labels[row.shots][0]:
        return cells + [UNPUBLISHED] * 4
    if pd.isna(row.difference):
        return cells + [UNDEFINED] * 4
    limits, p = UNDEFINED, UNDEFINED
    if not pd.isna(row.low):
        limits = f"{signed(row.low)} to {signed(row.high)}"
        p = "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
    counts = f"{row.wins:.0f} / {row.ties:.0f} / {row.losses:.0f}"
    return [*cells, signed(row.difference), limits, p, counts]


def signed(value: float) -> str:
    """Format a difference with its sign: `+0.40`, `−1.25`, and `0.00` without."""
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def by_result(rows: pd.DataFrame, names: list[str], key: str) -> dict[str, dict[str, tuple]]:
    """Return (text, rank) of each result by the column `key`: {key: {result: (text, rank)}}.

    Ranks are 1 for the best number, 2 for the second best and so on, equal for numbers that are
    equal with one decimal; NaN if there is no number.
    """
    ranks = rows["mean"].round(1).groupby(rows[key]).rank(method="dense", ascending=False)
    cells = {name: dict.fromkeys(names, (UNPUBLISHED, np.nan)) for name in rows[key].unique()}
    columns = rows[key], rows["result"], map(cell, rows["mean"], rows["std"]), ranks
    for name, result, text, rank in zip(*columns, strict=True):
        cells[name][result] = text or UNDEFINED, rank
    return cells


def latex_floats(comparison: Comparison, folder: str) -> str:
    """Return a LaTeX table per number of shots: a row per result, a column per metric.

    Labels start with the name of the folder, so that those of two comparisons differ.
    """
    floats = [r"% \usepackage{booktabs, graphicx}; \input this file."]
    for shots, rows in shot_tables(comparison):
        cells = by_result(rows, comparison.labels[shots], "metric")
        header = ["result", *map(metric_title, cells)]
        body = [
            [escape(name), *(mark(*cells[metric][name]) for metric in cells)]
            for name in comparison.labels[shots]
        ]
        notes = " ".join(f"{note}." for note in comparison.notes)
        count = len(comparison.categories)
        caption = (
            f"{shots}-shot: means over {count_categories(count, count)} in "
            "percent; ± is the sample standard deviation over seeds. Best in bold, second best "
            f"underlined. {notes}"
        )
        tabular = latex_table(list(map(escape, header)), body, text_columns=1)
        label = "-".join([folder, *comparison.names, f"{shots}-shot"])
        floats.append(latex_float(tabular, escape(caption.strip()), label))
    return "\n".join(floats)


def mark(text: str, rank: float) -> str:
    """Return a cell as LaTeX, marked if it is the best or the second best."""
    return MARKS.get(rank, "%s") % escape(text)


def html_page(comparison: Comparison) -> str:
    """Return the comparison as a page that needs no other file and no network."""
    from utils.report.page import asset, template  # Jinja only where a page is written

    categories = comparison.table[comparison.table["category"] != MEAN]
    sections: list[Mapping] = []
    for shots, rows in shot_tables(comparison):
        labels = comparison.labels[shots]
        metrics = {
            metric_title(metric): by_result(group, labels, "category")
            for metric, group in categories[categories["shots"] == shots].groupby(
                "metric", sort=False
            )
        }
        body = [statistics_cells(row, comparison) for row in rows.itertuples()]
        section = {"name": f"{shots}-shot", "labels": labels, "rows": body, "metrics": metrics}
        sections.append(section)
    return template("compare.html.j2").render(
        comparison=comparison,
        legend=[legend(comparison), PIXELS, *comparison.reasons],
        header=HEADER,
        no_differences=NO_DIFFERENCES,
        sections=sections,
        css=asset("report.css"),
    )

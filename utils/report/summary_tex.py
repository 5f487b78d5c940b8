"""Write summary.tex: the tables of summary.md as LaTeX, to include in a paper.

The first table has the means over categories for every number of shots; each of the others has one
number of shots, by category. They give the paper's numbers, the closest public ones and ours.
Metrics at a further evaluation size have tables of their own.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from utils.files import write_text
from utils.report.markdown import (
    UNDEFINED,
    UNPUBLISHED,
    cell,
    count_categories,
    is_mean,
    legend,
    mean_label,
    metrics_of,
    seeds_text,
    shots_labels,
    shown_rows,
)
from utils.results.folder import read_json
from utils.results.latex import escape, latex_float, latex_table
from utils.results.methods import method_name, variant_of
from utils.results.scores import run_name
from utils.results.summary import MEAN, metric_title, read_summary

USAGE = r"% \usepackage{booktabs, graphicx}; \input this file. Written by each run: do not edit."


def write_summary_tex(folder: Path) -> None:
    """Write summary.tex from summary.csv and settings.json of `folder`."""
    record = read_json(folder / "settings.json", "title", "categories", "settings", "notes")
    write_text(folder / "summary.tex", summary_tex(read_summary(folder), record, folder.name))


def summary_tex(summary: pd.DataFrame, record: Mapping, run: str) -> str:
    """Return the tables as LaTeX floats; arguments as for `summary_page`.

    Labels start with `run`, the name of the result folder: a paper may have two of a benchmark.
    """
    summary = shown_rows(summary, record)
    counts = summary.loc[~is_mean(summary), "category"].nunique(), len(record["categories"])
    label, settings = mean_label(*counts), record["settings"]
    variant = variant_of(settings)
    means = summary[summary["category"] == MEAN]
    title = f"mean over {count_categories(*counts)}"
    sections = [("mean", "shots", title, shots_labels(means, settings))]
    for shots, rows in summary.groupby("shots"):
        title = f"{run_name(shots, variant=variant)}{seeds_text(rows, record)}"
        sections.append(
            (f"{shots}-shot", "category", title, rows.replace({"category": MEAN}, label))
        )
    floats = [USAGE]
    for name, by, title, rows in sections:
        for size, metrics in groupby(metrics_of(rows), key=size_of):
            at = f", maps at {size}" if size else ""
            head = f"{method_name(settings)} on {record['title']}, {title}{at}."
            words = [head, legend(record, summary)]
            caption = " ".join([*words, *(f"{note}." for note in record["notes"])])
            table = source_table(rows, by, list(metrics))
            words = filter(None, [run, name, size])
            floats.append(latex_float(table, escape(caption), "-".join(words)))
    return "\n".join(floats)


def size_of(metric: str) -> str:
    """Return the evaluation size in the name of a metric; "" for the run's first."""
    return metric.partition("@")[2]


def source_table(rows: pd.DataFrame, by: str, metrics: Sequence[str]) -> str:
    """Format the paper's, the closest public and our numbers for each value of the column `by`."""
    body = []
    for key, numbers in rows.groupby(by, sort=False):
        by_metric = numbers.set_index("metric")
        sources = {"paper": cells(by_metric["paper"], by_metric["paper_std"])}
        for name in numbers["public_source"].dropna().unique():
            public = by_metric["public"].where(by_metric["public_source"] == name)
            sources[name] = cells(public)
        for name, texts in sources.items():
            if any(texts.get(metric) for metric in metrics):
                body.append([key, name, *(texts.get(metric) or UNPUBLISHED for metric in metrics)])
        ours = cells(by_metric["mean"], by_metric["std"])
        body.append([key, "ours", *(ours[metric] or UNDEFINED for metric in metrics)])
    header = [by, "source", *map(metric_title, metrics)]
    body = [[escape(str(text)) for text in row] for row in body]
    return latex_table(list(map(escape, header)), body, text_columns=2)


def cells(means: pd.Series, deviations: pd.Series | None = None) -> dict[str, str]:
    """Format the numbers of each metric; "" where there is none."""
    if deviations is None:
        return means.map(cell).to_dict()
    pairs = zip(means.index, means, deviations, strict=True)
    return {metric: cell(mean, std) for metric, mean, std in pairs}

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
    count_categories,
    is_mean,
    legend,
    mean_label,
    run_title,
    seeds_text,
    shots_labels,
    shown_rows,
    source_rows,
)
from utils.results.folder import read_record
from utils.results.latex import escape, latex_float, latex_table
from utils.results.methods import variant_of
from utils.results.scores import run_name
from utils.results.summary import MEAN, metric_title, metrics_of, read_summary

USAGE = r"% Needs \usepackage{booktabs, graphicx}. Include it with \input; each run overwrites it."


def write_summary_tex(folder: Path) -> None:
    """Write summary.tex from summary.csv and settings.json of `folder`."""
    text = summary_tex(read_summary(folder), read_record(folder), folder.name)
    write_text(folder / "summary.tex", text)


def summary_tex(summary: pd.DataFrame, record: Mapping, run: str) -> str:
    """Return the tables as LaTeX floats; arguments as for `summary_page`.

    Labels start with `run`, the name of the result folder: a paper may have two of a benchmark.
    """
    summary, settings = shown_rows(summary, record), record["settings"]
    finished = summary.loc[~is_mean(summary), "category"].nunique()
    total = len(record["categories"])
    means = shots_labels(summary[summary["category"] == MEAN], settings)
    sections = [("mean", "shots", f"mean over {count_categories(finished, total)}", means)]
    for shots, rows in summary.groupby("shots"):
        title = f"{run_name(shots, variant=variant_of(settings))}{seeds_text(rows, record)}"
        rows = rows.replace({"category": MEAN}, mean_label(finished, total))
        sections.append((f"{shots}-shot", "category", title, rows))
    floats = [USAGE]
    for name, by, title, rows in sections:
        for size, metrics in groupby(metrics_of(rows), key=size_of):
            at = f", maps at {size}" if size else ""
            sentences = [f"{run_title(record)}, {title}{at}.", legend(record, rows)]
            sentences += [f"{note}." for note in record["notes"]]
            table = source_table(rows, by, list(metrics))
            label = "-".join(filter(None, [run, name, size]))
            floats.append(latex_float(table, escape(" ".join(sentences)), label))
    return "\n".join(floats)


def size_of(metric: str) -> str:
    """Return the evaluation size in the name of a metric; "" for the run's first."""
    return metric.partition("@")[2]


def source_table(rows: pd.DataFrame, by: str, metrics: Sequence[str]) -> str:
    """Format the `source_rows` as a tabular."""
    header = [by, "source", *map(metric_title, metrics)]
    body = [[escape(text) for text in row] for row in source_rows(rows, by, metrics)]
    return latex_table([escape(name) for name in header], body, text_columns=2)

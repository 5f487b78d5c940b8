"""report.html: a whole result folder on one page that needs nothing else.

`write_report` reads what a run has written (settings.json, summary.csv, done/ and report/) and
writes the page with the numbers, charts, curves and a gallery of all test images. It is one file:
no network, no library; report.css and the scripts beside it are copied into it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from datasets.splits import UNKNOWN
from utils.evaluation.metrics import FPR_LIMIT, METRICS
from utils.files import atomic_path
from utils.report.charts import Dot, curve_chart, dot_chart, histogram, style
from utils.report.data import CORRECT, FALSE_ALARM, MISSED, outcome
from utils.report.gallery import (
    gallery_index,
    gallery_pictures,
    script_json,
    without_pictures,
)
from utils.results.folder import read_json
from utils.results.markdown import UNDEFINED, cell, ours, seeds_text
from utils.results.published import MEAN, PAPER, SOURCES
from utils.results.summary import SUMMARY_COLUMNS

TEMPLATES = Path(__file__).resolve().parent
DATASETS = {"mvtec": "MVTec AD", "visa": "VisA", "mpdd": "MPDD", "demo": "the demo benchmark"}
METRIC_NAMES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image AUPR",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AUPR",
    "pixel_f1_max": "pixel F1-max",
    "pixel_aupro": "AUPRO",
}
ROC_AXES = ("false positive rate", "true positive rate")
CURVES = {  # by the metric that is their area: title, axes, end of the first axis
    "image_auroc": ("Image ROC", ROC_AXES, 1),
    "image_aupr": ("Image precision-recall", ("recall", "precision"), 1),
    "pixel_auroc": ("Pixel ROC", ROC_AXES, 1),
    "pixel_aupr": ("Pixel precision-recall", ("recall", "precision"), 1),
    "pixel_aupro": ("PRO", ("false positive rate", "mean overlap of regions"), FPR_LIMIT),
}


def write_report(folder: Path, official: Sequence[str]) -> None:
    """Write report.html into a result folder from the finished categories there.

    `official` is the full list of the benchmark's categories.
    """
    done = {path.stem: read_json(path) for path in sorted((folder / "done").glob("*.json"))}
    pages = report_page(
        read_json(folder / "settings.json"),
        read_summary(folder / "summary.csv"),
        {name: record["metrics"] for name, record in done.items()},
        {name: part and without_pictures(part) for name, part in data_of(folder, done)},
        official,
        (gallery_pictures(part) for _, part in data_of(folder, done) if part),
    )
    with atomic_path(folder / "report.html") as temporary, temporary.open("wb") as stream:
        stream.writelines(text.encode("utf-8") for text in pages)


def read_summary(path: Path) -> pd.DataFrame:
    """The table of summary.csv; an empty one where pictures without labels gave none."""
    if path.exists():
        return pd.read_csv(path)
    return pd.DataFrame(columns=SUMMARY_COLUMNS)


def read_report_data(folder: Path, category: str) -> dict | None:
    """A category's part of the page; None where an older version finished the category."""
    path = folder / "report" / f"{category}.json"
    return read_json(path) if path.exists() else None


def data_of(folder: Path, categories: Iterable[str]) -> Iterator[tuple[str, dict | None]]:
    """Categories and their parts of the page, one at a time: with pictures they are large."""
    return ((name, read_report_data(folder, name)) for name in categories)


def report_page(
    record: Mapping,
    summary: pd.DataFrame,
    metrics: Mapping[str, Sequence[tuple]],
    data: Mapping[str, dict | None],
    official: Sequence[str],
    pictures: Iterable[list[dict]],
) -> Iterator[str]:
    """The page's HTML, piece by piece.

    `record` is settings.json, `summary` the table of summary.csv, `metrics` and `data` the rows
    of metrics.csv and the report data of each finished category, `official` all categories,
    `pictures` the gallery's pictures of each category that has data.
    """
    settings = record["settings"]
    drawn = {name: part for name, part in data.items() if part is not None}
    here = len(data)
    values = {tuple(row[:4]): row[4] for rows in metrics.values() for row in rows}
    shots = shots_of(summary, drawn)
    return template().generate(
        title=f"WinCLIP on {DATASETS.get(settings['dataset']) or settings['class_name']}",
        record=record,
        versions={"git revision": record["git_revision"]} | record["versions"],
        finished=f"{here} of {len(official)}",
        mean_name=MEAN if here == len(official) else f"mean of {here}/{len(official)}",
        shots=shots,
        means=table_rows(summary[summary["category"] == MEAN], "shots"),
        tables={one["shots"]: rows_of(summary, one["shots"]) for one in shots},
        metric_names=METRIC_NAMES,
        charts=[(METRIC_NAMES[m], category_chart(summary, m)) for m in METRICS if len(summary)],
        sources=sources_of(summary),
        categories=[category_section(name, drawn[name], values, summary) for name in drawn],
        undrawn=[name for name in data if name not in drawn],
        counts=image_counts(drawn),
        style=style,
        index=script_json(gallery_index(drawn)),
        pictures=map(script_json, pictures),
        css=asset("report.css"),
        pictures_js=asset("report_images.js"),
        js=asset("report.js"),
    )


def shots_of(summary: pd.DataFrame, data: Mapping[str, Mapping]) -> list[dict]:
    """The numbers of shots that were run, and how many seeds they have."""
    seeds = {count: seeds_text(part) for count, part in summary.groupby("shots")}
    drawn = {run["shots"] for part in data.values() for run in part["runs"]}
    return [
        {"shots": int(count), "name": f"{count}-shot", "seeds": seeds.get(count, "")}
        for count in sorted(drawn | set(seeds))
    ]


@lru_cache
def template():
    """The compiled template."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def asset(name: str) -> Markup:
    """A file beside the template, as it stands."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def rows_of(summary: pd.DataFrame, shots: int) -> list[dict]:
    """The table of one number of shots: a row per category, the mean last."""
    return table_rows(summary[summary["shots"] == shots], "category")


def table_rows(part: pd.DataFrame, by: str) -> list[dict]:
    """A row for each value of the column `by`, with a cell for each metric.

    A cell is our text and, for each source that has the number, its name, text and our difference.
    """
    rows = []
    for key, numbers in part.groupby(by, sort=False):
        cells = {}
        for row in numbers.itertuples():
            beside = []
            if not pd.isna(row.paper):
                beside.append(("paper", cell(row.paper, row.paper_std), row.mean - row.paper))
            if not pd.isna(row.public):
                beside.append(("public", cell(row.public), row.mean - row.public))
            texts = [(name, text, difference(value)) for name, text, value in beside]
            cells[row.metric] = {"ours": ours(row), "beside": texts}
        rows.append({"name": key, "cells": cells})
    return rows


def sources_of(summary: pd.DataFrame) -> list[tuple[str, str]]:
    """What "paper" and "public" are, where such numbers stand on the page."""
    notes = (
        [("paper", SOURCES[PAPER].removeprefix("the paper, "))]
        if summary["paper"].notna().any()
        else []
    )
    names = summary["public_source"].dropna().unique()
    return notes + [("public", f"{name}, {SOURCES[name]}") for name in names]


def difference(value: float) -> str:
    """Ours minus theirs, signed: `+0.4`, `−1.2`."""
    if pd.isna(value):
        return UNDEFINED
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


def dots(rows: pd.DataFrame) -> list[Dot]:
    """The numbers of some rows of a summary."""
    return [Dot(*one) for one in rows[["mean", "std", "paper", "public"]].to_numpy().tolist()]


def category_chart(summary: pd.DataFrame, metric: str) -> Markup:
    """One metric in all categories and their mean, for each number of shots."""
    part = summary[summary["metric"] == metric]
    names = part["category"].drop_duplicates().tolist()
    series = [dots(rows) for _, rows in part.groupby("shots")]
    label = f"{METRIC_NAMES[metric]} of {', '.join(names)}; the numbers are in the tables"
    return dot_chart(names, series, label)


def category_section(
    name: str, data: Mapping, values: Mapping[tuple, float | None], summary: pd.DataFrame
) -> dict:
    """What the page says and draws of one category."""
    rows = summary[summary["category"] == name]
    series = [dots(part) for _, part in rows.groupby("shots")]
    label = f"The seven metrics of {name}; the numbers are in the tables"
    return {
        "name": name,
        "labelled": any(one["label"] != UNKNOWN for one in data["images"]),
        "chart": dot_chart(list(METRIC_NAMES.values()), series, label) if series else None,
        "runs": [run_section(name, data, place, values) for place in range(len(data["runs"]))],
        "curves": [curve_figure(name, data["runs"], metric, values) for metric in CURVES],
    }


def seed_value(values: Mapping[tuple, float | None], name: str, run: Mapping, metric: str) -> str:
    """The number of metrics.csv for one run, in percent."""
    value = values.get((name, run["shots"], run["seed"] if run["shots"] else None, metric))
    return UNDEFINED if value is None else f"{100 * value:.1f}"


def run_section(name: str, data: Mapping, place: int, values: Mapping[tuple, float | None]) -> dict:
    """Threshold, mistakes and histogram of one run of a category."""
    run, images = data["runs"][place], data["images"]
    outcomes = [outcome(one["scores"][place], one["label"], run["threshold"]) for one in images]
    scores = [
        np.array([one["scores"][place] for one in images if (one["label"] == 1) == anomalous])
        for anomalous in (False, True)
    ]
    known = run["threshold"] is not None
    return {
        "shots": run["shots"],
        "name": run["name"],
        "threshold": f"{run['threshold']:.4f}" if known else UNDEFINED,
        "f1": seed_value(values, name, run, "image_f1_max"),
        "missed": outcomes.count(MISSED) if known else UNDEFINED,
        "false_alarms": outcomes.count(FALSE_ALARM) if known else UNDEFINED,
        "correct": outcomes.count(CORRECT) if known else UNDEFINED,
        "histogram": histogram(
            *scores,
            run["threshold"],
            f"Image scores of {name}, {run['name']}: {len(scores[0])} good (or not labelled) and "
            f"{len(scores[1])} anomalous images",
        ),
    }


def curve_figure(
    name: str, runs: Sequence[Mapping], metric: str, values: Mapping[tuple, float | None]
) -> dict:
    """One kind of curve for all runs of a category, with their areas."""
    title, axes, end = CURVES[metric]
    areas = [(run["name"], seed_value(values, name, run, metric)) for run in runs]
    told = ", ".join(f"{run} {area}" for run, area in areas)
    label = f"{title} of {name}; {METRIC_NAMES[metric]}: {told}"
    chart = curve_chart([run["curves"][metric] for run in runs], end, axes, label)
    return {"title": title, "area": METRIC_NAMES[metric], "areas": areas, "chart": chart}


def image_counts(data: Mapping[str, Mapping]) -> list[dict]:
    """How many test images of each defect every category has."""
    counts = []
    for name, part in data.items():
        labels = [one["label"] for one in part["images"]]
        found = [one["defect"] for one in part["images"] if one["label"] == 1]
        defects = pd.Series(found, dtype=str)
        by_defect = defects.value_counts().sort_index().items()
        counts.append(
            {
                "name": name,
                "good": labels.count(0),
                "anomalous": len(defects),
                "unknown": labels.count(UNKNOWN),
                "defects": ", ".join(f"{defect} {count}" for defect, count in by_defect),
            }
        )
    return counts

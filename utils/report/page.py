"""Write report.html: a whole result folder on one page that needs no other file and no network.

`write_report` reads what a run has written (settings.json, summary.csv, done/ and report/) and
writes tables, charts, curves and a gallery of all test images. report.css and the scripts beside
it are copied into the page.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from datasets.references import NO_SEED
from datasets.splits import UNKNOWN
from utils.evaluation.metrics import FPR_LIMIT, METRICS
from utils.files import atomic_path
from utils.report.charts import Dot, curve_chart, dot_chart, histogram, style
from utils.report.data import (
    CORRECT,
    FALSE_ALARM,
    MISSED,
    outcome,
    read_category_data,
    thresholds_of,
)
from utils.report.gallery import gallery_images, gallery_index, script_json, without_pixels
from utils.report.markdown import (
    UNDEFINED,
    cell,
    draws_references,
    has_published,
    legend,
    mean_label,
    metric_blocks,
    our_cell,
    seeds_text,
    shots_labels,
    shown_rows,
    source_names,
)
from utils.results.defects import read_defects
from utils.results.folder import read_finished, read_json
from utils.results.methods import METHOD_NAMES, has_maps, method_name, variant_of
from utils.results.scores import run_name
from utils.results.summary import (
    MEAN,
    METRIC_NAMES,
    load_sources,
    others_beside,
    read_summary,
)
from utils.results.thresholds import REFERENCES, Threshold, explain_threshold

FOLDER = Path(__file__).resolve().parent  # of the template, styles and scripts
ROC_AXES = ("false positive rate", "true positive rate")
CURVES = {  # by the metric that is the area under it: title, names of the axes, end of the x axis
    "image_auroc": ("Image ROC", ROC_AXES, 1),
    "image_aupr": ("Image precision-recall", ("recall", "precision"), 1),
    "pixel_auroc": ("Pixel ROC", ROC_AXES, 1),
    "pixel_aupr": ("Pixel precision-recall", ("recall", "precision"), 1),
    "pixel_aupro": ("Per-region overlap", ("false positive rate", "mean overlap"), FPR_LIMIT),
}


def write_report(folder: Path) -> None:
    """Write report.html into a result folder from its finished categories.

    Raise `InputError` if a file that the run wrote there is damaged.
    """
    finished = read_finished(folder)
    defects = read_defects(folder)
    html = report_page(
        read_json(folder / "settings.json", "title", "categories", "settings"),
        read_summary(folder),
        finished,
        {name: without_pixels(read_category_data(folder, name)) for name in finished},
        (gallery_images(read_category_data(folder, name), defects.get(name)) for name in finished),
        bool(defects),
    )
    with atomic_path(folder / "report.html") as temporary, temporary.open("wb") as stream:
        stream.writelines(text.encode("utf-8") for text in html)


def report_page(
    record: Mapping,
    summary: pd.DataFrame,
    finished: Mapping[str, Mapping],
    data: Mapping[str, dict],
    images: Iterable[dict[str, dict]],
    detected: bool,
) -> Iterator[str]:
    """Generate the HTML of the page in pieces.

    `record` is settings.json, `summary` the table of summary.csv; `finished` and `data` map each
    finished category to its record in done/ and to its report data without pixels, `images` gives
    the gallery images of each of them. `detected` says whether there is a defects.json.
    """
    summary, settings = shown_rows(summary, record), record["settings"]
    metrics = [metric for metric in METRICS if metric in set(summary["metric"])]
    shots = shots_of(summary, data, record)
    others = others_beside(settings, [run["shots"] for run in shots])
    total = len(record["categories"])
    rate = settings.get("false_alarms")
    thresholds = {name: thresholds_of(data[name], finished[name], rate) for name in finished}
    sections = [
        category_section(name, data[name], finished[name], thresholds[name], summary)
        for name in finished
    ]
    explained = [
        f"{data[name]['runs'][-1]['name']}: "
        + explain_threshold(thresholds[name][-1].value, len(done["leave_one_out"]), rate)
        for name, done in finished.items()
        if done.get("leave_one_out")
    ]
    return template().generate(
        title=f"{method_name(settings)} on {record['title']}",
        method=method_name(settings),
        has_maps=has_maps(settings),
        record=record,
        versions={"git revision": record["git_revision"]} | record["versions"],
        finished=f"{len(finished)} of {total}",
        mean_name=mean_label(len(finished), total),
        shots=shots,
        opens_on=shots[0 if draws_references(record) else -1]["shots"] if shots else None,
        legend=legend(record, summary),
        explained=explained,
        detected=detected,
        has_seeds=any(run["seeds"] for run in shots),
        means=table_rows(shots_labels(summary[summary["category"] == MEAN], settings), "shots"),
        tables={
            run["shots"]: table_rows(summary[summary["shots"] == run["shots"]], "category")
            for run in shots
        },
        blocks=table_blocks(summary),
        seven={metric: METRIC_NAMES[metric] for metric in METRICS},
        others=other_rows(others),
        compared=bool(has_published(summary).any()),
        charts=[(METRIC_NAMES[m], category_chart(summary, m)) for m in metrics],
        sources=source_list(summary, others, settings),
        categories=sections,
        labelled=any(section["labelled"] for section in sections),
        counts=image_counts(data),
        style=style,
        index=script_json(gallery_index(data, thresholds)),
        images=map(script_json, images),
        css=asset("report.css"),
        images_js=asset("report_images.js"),
        js=asset("report.js"),
    )


def shots_of(summary: pd.DataFrame, data: Mapping[str, Mapping], record: Mapping) -> list[dict]:
    """Return each number of shots, its name, and the number of seeds in words."""
    seeds = {count: seeds_text(rows, record) for count, rows in summary.groupby("shots")}
    shown = {run["shots"] for category in data.values() for run in category["runs"]}
    return [
        {
            "shots": int(count),
            "name": run_name(count, variant=variant_of(record["settings"])),
            "seeds": seeds.get(count, ""),
        }
        for count in sorted(shown | set(seeds))
    ]


@lru_cache
def template(name: str = "report.html.j2"):
    """Return a compiled template of this folder."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def asset(name: str) -> Markup:
    """Return the text of a file beside the template, unescaped."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def table_rows(summary: pd.DataFrame, by: str) -> list[dict]:
    """Return a row for each value of the column `by`, with a cell for each metric.

    A cell holds our number as text and, for each source with a number, the source's name, its
    number and our difference from it as text.
    """
    rows = []
    for key, numbers in summary.groupby(by, sort=False):
        cells = {}
        for row in numbers.itertuples():
            published = []
            if not pd.isna(row.paper):
                text = cell(row.paper, row.paper_std)
                published.append(("paper", text, difference(row.mean - row.paper)))
            if not pd.isna(row.public):
                published.append(("public", cell(row.public), difference(row.mean - row.public)))
            cells[row.metric] = {"ours": our_cell(row), "published": published}
        rows.append({"name": key, "cells": cells})
    return rows


def table_blocks(summary: pd.DataFrame) -> list[dict]:
    """Return the heading of each table of `metric_blocks`, and the names of its metrics."""
    return [
        {
            "heading": heading,
            "metrics": {metric: METRIC_NAMES[metric.partition("@")[0]] for metric in metrics},
        }
        for heading, metrics in metric_blocks(summary).items()
    ]


def other_rows(others: pd.DataFrame) -> list[dict]:
    """Return a row of published means for each source and number of shots in `others`."""
    return [
        {"method": METHOD_NAMES[method], "shots": shots, "source": source}
        | dict(zip(rows["metric"], rows["value"], strict=True))
        for (shots, method, source), rows in others.groupby(["shots", "method", "source"])
    ]


def source_list(summary: pd.DataFrame, others: pd.DataFrame, settings: Mapping) -> list[dict]:
    """Return the name, description, link and known departures of each source on the page."""
    names = source_names(summary, settings)
    labels = {
        source: name if name == "paper" else f"public ({name})" for name, source in names.items()
    }
    labels |= {source: source for source in sorted(set(others["source"]))}
    return [{"name": label} | load_sources()[source] for source, label in labels.items()]


def difference(value: float) -> str:
    """Format ours minus theirs with its sign: `+0.4`, `−1.2`."""
    if pd.isna(value):
        return UNDEFINED
    return f"{value:+.1f}".replace("-", "−") if round(value, 1) else "0.0"


def dots(rows: pd.DataFrame) -> list[Dot]:
    """Return the numbers in some rows of a summary as dots of a chart."""
    return [Dot(*row) for row in rows[["mean", "std", "paper", "public"]].to_numpy().tolist()]


def category_chart(summary: pd.DataFrame, metric: str) -> Markup:
    """Chart one metric of all categories and their mean, for each number of shots."""
    rows = summary[summary["metric"] == metric]
    names = rows["category"].drop_duplicates().tolist()
    series = [dots(group) for _, group in rows.groupby("shots")]
    label = f"{METRIC_NAMES[metric]} of {', '.join(names)}; the tables list the values"
    return dot_chart(names, series, label)


def category_section(
    name: str,
    data: Mapping,
    record: Mapping,
    thresholds: Sequence[Threshold | None],
    summary: pd.DataFrame,
) -> dict:
    """Return the numbers and charts of one category from its report data and its done/ record."""
    rows = summary[(summary["category"] == name) & summary["metric"].isin(METRICS)]
    series = [dots(group) for _, group in rows.groupby("shots")]
    metrics = [METRIC_NAMES[metric] for metric in rows["metric"].drop_duplicates()]
    label = f"The metrics of {name}; the tables list the values"
    values = {tuple(row[1:4]): row[4] for row in record["metrics"]}
    labelled = any(image["label"] != UNKNOWN for image in data["images"])
    return {
        "name": name,
        "labelled": labelled,
        "chart": dot_chart(metrics, series, label) if series else None,
        "runs": [
            run_section(name, data, index, values, threshold)
            for index, threshold in enumerate(thresholds)
        ],
        "curves": [
            curve_figure(name, data["runs"], metric, values)
            for metric in CURVES
            if all(metric in run["curves"] for run in data["runs"])
        ],
    }


def percent(values: Mapping[tuple, float | None], run: Mapping, metric: str) -> str:
    """Format one metric of one run in percent; `values` by shots, seed (None for 0) and metric."""
    seed = None if run["seed"] == NO_SEED else run["seed"]
    value = values.get((run["shots"], seed, metric))
    return UNDEFINED if value is None else f"{100 * value:.1f}"


def run_section(
    name: str,
    data: Mapping,
    index: int,
    values: Mapping[tuple, float | None],
    threshold: Threshold | None,
) -> dict:
    """Return the threshold, mistakes and histogram of one shown run of a category."""
    run, images = data["runs"][index], data["images"]
    reference = None
    if threshold and threshold.source == REFERENCES:
        above = sum(bool(threshold.exceeded_by(image["scores"][index])) for image in images)
        reference = {"value": threshold.value, "above": above, "images": len(images)}
    outcomes = [outcome(image["scores"][index], image["label"], threshold) for image in images]
    good, anomalous = (
        np.array([image["scores"][index] for image in images if (image["label"] == 1) == positive])
        for positive in (False, True)
    )
    kinds = (CORRECT, MISSED, FALSE_ALARM)
    counts = {kind: UNDEFINED if threshold is None else outcomes.count(kind) for kind in kinds}
    label = (
        f"Image scores of {name}, {run['name']}: {len(good)} good or unlabelled and "
        f"{len(anomalous)} anomalous images"
    )
    return {
        "shots": run["shots"],
        "name": run["name"],
        "threshold": UNDEFINED if threshold is None else f"{threshold.value:.4f}",
        "f1": percent(values, run, "image_f1_max"),
        "missed": counts[MISSED],
        "false_alarms": counts[FALSE_ALARM],
        "correct": counts[CORRECT],
        "reference": reference,
        "histogram": histogram(good, anomalous, threshold and threshold.value, label),
    }


def curve_figure(
    name: str, runs: Sequence[Mapping], metric: str, values: Mapping[tuple, float | None]
) -> dict:
    """Return one kind of curve for all shown runs of a category, with the areas under them."""
    title, axes, x_end = CURVES[metric]
    areas = [(run["name"], percent(values, run, metric)) for run in runs]
    label = f"{title} of {name}; {METRIC_NAMES[metric]}: {', '.join(map(' '.join, areas))}"
    chart = curve_chart([run["curves"][metric] for run in runs], x_end, axes, label)
    drawn = metric.startswith("image_") or any(run["curves"][metric] for run in runs)
    return {
        "metric": metric,
        "title": title,
        "area": METRIC_NAMES[metric],
        "areas": areas,
        "chart": chart,
        "drawn": drawn,
    }


def image_counts(data: Mapping[str, Mapping]) -> list[dict]:
    """Count the good, anomalous and unlabelled test images of each category, and its defects."""
    counts = []
    for name, category in data.items():
        labels = Counter(image["label"] for image in category["images"])
        defects = Counter(image["defect"] for image in category["images"] if image["label"] == 1)
        text = ", ".join(f"{defect} {count}" for defect, count in sorted(defects.items()))
        row = {"name": name, "good": labels[0], "anomalous": labels[1], "defects": text}
        counts.append(row | {"unlabelled": labels[UNKNOWN]})
    return counts

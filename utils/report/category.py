"""Draw the charts of report.html and collect its numbers, category by category."""

from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np
import pandas as pd
from markupsafe import Markup

from datasets.references import NO_SEED
from datasets.splits import UNKNOWN
from utils.evaluation.metrics import FPR_LIMIT, METRICS
from utils.report.charts import Dot, curve_chart, dot_chart, histogram
from utils.report.data import CORRECT, FALSE_ALARM, MISSED, outcome
from utils.report.markdown import UNDEFINED, has_published
from utils.results.summary import METRIC_NAMES
from utils.results.thresholds import REFERENCES, Threshold

ROC_AXES = ("false positive rate", "true positive rate")
CURVES = {  # by the metric that is the area under it: title, names of the axes, end of the x axis
    "image_auroc": ("Image ROC", ROC_AXES, 1),
    "image_aupr": ("Image precision-recall", ("recall", "precision"), 1),
    "pixel_auroc": ("Pixel ROC", ROC_AXES, 1),
    "pixel_aupr": ("Pixel precision-recall", ("recall", "precision"), 1),
    "pixel_aupro": ("Per-region overlap", ("false positive rate", "mean overlap"), FPR_LIMIT),
}


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


def metric_chart(name: str, rows: pd.DataFrame) -> Markup:
    """Chart all metrics of one category, for each number of shots."""
    series = [dots(group) for _, group in rows.groupby("shots")]
    metrics = [METRIC_NAMES[metric] for metric in rows["metric"].drop_duplicates()]
    return dot_chart(metrics, series, f"The metrics of {name}; the tables list the values")


def has_comparisons(rows: pd.DataFrame) -> bool:
    """Return whether some rows of a summary have several numbers for one metric."""
    return rows["shots"].nunique() > 1 or bool(has_published(rows).any())


def category_section(
    name: str,
    data: Mapping,
    record: Mapping,
    thresholds: Sequence[Threshold | None],
    summary: pd.DataFrame,
) -> dict:
    """Return the numbers and charts of one category from its report data and its done/ record."""
    rows = summary[(summary["category"] == name) & summary["metric"].isin(METRICS)]
    values = {tuple(row[1:4]): row[4] for row in record["metrics"]}
    labelled = any(image["label"] != UNKNOWN for image in data["images"])
    return {
        "name": name,
        "labelled": labelled,
        "chart": metric_chart(name, rows) if has_comparisons(rows) else None,
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
    run = data["runs"][index]
    scores = np.array([image["scores"][index] for image in data["images"]])
    labels = np.array([image["label"] for image in data["images"]])
    good, anomalous = scores[labels != 1], scores[labels == 1]
    reference = None
    if threshold and threshold.source == REFERENCES:
        reference = {"above": threshold.exceeded_by(scores).sum(), "images": len(scores)}
    outcomes = list(map(outcome, scores, labels, repeat(threshold)))
    correct, missed, false_alarms = (
        UNDEFINED if threshold is None else outcomes.count(kind)
        for kind in (CORRECT, MISSED, FALSE_ALARM)
    )
    f1 = percent(values, run, "image_f1_max")
    shown_threshold = UNDEFINED if threshold is None else f"{threshold.value:.4f}"
    label = (
        f"Image scores of {name}, {run['name']}: {len(good)} good or unlabelled and "
        f"{len(anomalous)} anomalous images"
    )
    return {
        "shots": run["shots"],
        "name": run["name"],
        "threshold": shown_threshold,
        "missed": missed,
        "false_alarms": false_alarms,
        "row": [run["name"], shown_threshold, f1, correct, missed, false_alarms],
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

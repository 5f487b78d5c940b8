"""Write report.html: a whole result folder on one page that needs no other file and no network.

`write_report` reads what a run has written (settings.json, summary.csv, done/ and report/) and
writes tables, charts, curves and a gallery of all test images. report.css and the scripts beside
it are copied into the page.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from datasets.splits import UNKNOWN
from utils.evaluation.metrics import METRICS
from utils.files import atomic_path
from utils.report.category import category_chart, category_section, has_comparisons
from utils.report.charts import style
from utils.report.data import read_category_data, thresholds_of
from utils.report.gallery import gallery_images, gallery_index, script_json, without_pixels
from utils.report.markdown import (
    UNPUBLISHED,
    cell,
    count_categories,
    difference,
    has_published,
    is_mean,
    legend,
    mean_label,
    metric_blocks,
    our_cell,
    run_title,
    seeds_text,
    shots_labels,
    shown_rows,
    source_names,
)
from utils.results.defects import read_defects
from utils.results.folder import read_finished, read_record
from utils.results.methods import METHOD_NAMES, has_maps, method_name, variant_of
from utils.results.scores import run_name
from utils.results.summary import (
    MEAN,
    METRIC_NAMES,
    load_sources,
    others_beside,
    read_summary,
)
from utils.results.thresholds import explain_threshold

FOLDER = Path(__file__).resolve().parent  # of the template, styles and scripts


def write_report(folder: Path) -> None:
    """Write report.html into a result folder from its finished categories.

    Raise `InputError` if a file that the run wrote there is damaged.
    """
    record = read_record(folder)
    order, finished = record["categories"].index, read_finished(folder)
    finished = {name: finished[name] for name in sorted(finished, key=order)}  # as in the tables
    defects = read_defects(folder)
    html = report_page(
        record,
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
    has_defects: bool,
) -> Iterator[str]:
    """Generate the HTML of the page in pieces.

    `record` is settings.json, `summary` the table of summary.csv; `finished` and `data` map each
    finished category to its record in done/ and to its report data without pixels, `images` gives
    the gallery images of each of them. `has_defects` says whether there is a defects.json.
    """
    summary, settings = shown_rows(summary, record), record["settings"]
    if len(finished) == 1:
        summary = summary[~is_mean(summary)]
    shots = shots_of(summary, data, record)
    others = others_beside(settings, [run["shots"] for run in shots])
    total = len(record["categories"])
    rate = settings.get("false_alarms")
    thresholds = {name: thresholds_of(data[name], finished[name], rate) for name in finished}
    sections = [
        category_section(name, data[name], finished[name], thresholds[name], summary)
        for name in finished
    ]
    reference_thresholds = [
        f"{data[name]['runs'][-1]['name']}: "
        + explain_threshold(thresholds[name][-1].value, len(done["leave_one_out"]), rate)
        for name, done in finished.items()
        if done.get("leave_one_out")
    ]
    return template().generate(
        title=run_title(record),
        method=method_name(settings),
        has_maps=has_maps(settings),
        record=record,
        versions={"git revision": record["git_revision"]} | record["versions"],
        finished=f"{len(finished)} of {total}",
        mean_name=mean_label(len(finished), total),
        shots=shots,
        opens_on=shots[0 if record["draws_references"] else -1]["shots"] if shots else None,
        legend=legend(record, summary),
        reference_thresholds=reference_thresholds,
        has_defects=has_defects,
        has_seeds=any(run["seeds"] for run in shots),
        **result_section(summary, list(finished), record),
        seven=[METRIC_NAMES[metric] for metric in METRICS],
        others=other_rows(others),
        sources=source_list(summary, others, settings),
        categories=sections,
        labelled=any(section["labelled"] for section in sections),
        counts=image_counts(data),
        defects={image["defect"] for category in data.values() for image in category["images"]},
        style=style,
        index=script_json(gallery_index(data, thresholds)),
        images=map(script_json, images),
        css=asset("report.css"),
        images_js=asset("report_images.js"),
        js=asset("report.js"),
    )


def result_section(summary: pd.DataFrame, finished: list[str], record: Mapping) -> dict:
    """Return the tables and the charts of a summary.

    A single category is tabulated by shots alone. Charts that would show single dots are left out.
    """
    metrics = [metric for metric in METRICS if metric in set(summary["metric"])]
    total = len(record["categories"])
    sole = finished[0] if len(finished) == 1 else None
    overall = summary[summary["category"] == (sole or MEAN)]
    by_category = {shots: table_rows(rows, "category") for shots, rows in summary.groupby("shots")}
    charted = not sole and (has_comparisons(summary) or len(finished) > 2)
    return {
        "has_results": bool(metrics),
        "has_deviations": bool(summary["std"].notna().any()),
        "beside_published": bool(has_published(summary).any()),
        "blocks": table_blocks(summary),
        "averaged": sole or f"Mean over {count_categories(len(finished), total)}",
        "by_shots": table_rows(shots_labels(overall, record["settings"]), "shots"),
        "by_category": {} if sole else by_category,
        "charts": [(METRIC_NAMES[m], category_chart(summary, m)) for m in metrics if charted],
    }


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
    environment.filters["breakable"] = breakable
    return environment.get_template(name)


def breakable(text: str) -> Markup:
    """Let a path wrap behind its separators, instead of in the middle of a word.

    >>> breakable("models/demo-clip.json")
    Markup('models/<wbr>demo-<wbr>clip.json')
    """
    return Markup(re.sub("([/_-])", r"\1<wbr>", str(escape(text))))


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


def other_rows(others: pd.DataFrame) -> list[list[str]]:
    """Return source, method, shots and published means for each source and number of shots."""
    table = []
    for (shots, method, source), rows in others.groupby(["shots", "method", "source"]):
        means = dict(zip(rows["metric"], map(cell, rows["value"]), strict=True))
        means = [means.get(metric, UNPUBLISHED) for metric in METRICS]
        table.append([source, METHOD_NAMES[method], shots, *means])
    return table


def source_list(summary: pd.DataFrame, others: pd.DataFrame, settings: Mapping) -> list[dict]:
    """Return the name, description, link and known departures of each source on the page."""
    names = source_names(summary, settings)
    labels = {
        source: name if name == "paper" else f"public ({name})" for name, source in names.items()
    }
    labels |= {source: source for source in sorted(set(others["source"]))}
    return [{"name": label} | load_sources()[source] for source, label in labels.items()]


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

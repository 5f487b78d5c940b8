"""Turn the numbers of an ablation into the sentences, tables and charts of its pages."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from utils.ablation.analysis import START
from utils.ablation.shares import MIN_CATEGORIES
from utils.ablation.variants import (
    MEANINGS,
    PAPER_ROWS,
    Variant,
    single_changes,
    switch_name,
    variant_name,
)
from utils.evaluation.metrics import METRICS
from utils.report.ablation import Page, Section, Table
from utils.report.markdown import UNDEFINED, UNPUBLISHED, cell, count_categories, difference
from utils.report.waterfall import Step, waterfall_chart
from utils.results.summary import MEAN, METRIC_NAMES, published_for

HEADLINES = ("image_auroc", "pixel_auroc")  # the metrics of the sentences
SHARE_TEXT = (
    "The share of a switch is its effect averaged over all orders in which the switches can be "
    "set (its Shapley value). The shares add up to the whole gap and do not depend on an order."
)
WALK_TEXT = "The means after setting one switch after another, in this order."
DEPARTURES = "Single departures from paper"
DEPARTURE_TEXT = (
    "Each row changes one thing in the paper's protocol; differences are in parentheses."
)
UNAFFECTED_TEXT = (
    "n/a: the change does not enter this metric. Image scores do not depend on the zero-shot map, "
    "and maps do not depend on multi-crop."
)
PAPER_TEXT = (
    'Rows with the source "paper" are from the paper: its ablation on MVTec AD (arXiv 2303.14814), '
    "whose row for our protocol is the one before multi-crop. The paper does not define "
    "multi-crop, so its row with multi-crop is repeated below each of ours."
)
UNCHANGED = 1e-9  # percent

published = cache(published_for)  # every chart and table asks for the same numbers


class Ablation(NamedTuple):
    """The numbers of an ablation, in percent."""

    record: Mapping  # settings.json: title, categories, notes, settings ...; and what is `finished`
    effects: pd.DataFrame  # of `utils.ablation.analysis`
    means: pd.DataFrame
    variants: Sequence[Variant]


def describe(ablation: Ablation) -> Page:
    """Return the content of the pages."""
    record, switches = ablation.record, switches_of(ablation.effects)
    header = ["switch", "name in --order", "public", "paper"]
    rows = [[switch_name(name), name, *MEANINGS[name][1:]] for name in switches]
    all_shots = sorted(set(ablation.effects["shots"]))
    left_out = f"The switch {switch_name('resize')} is left out: all images are square."
    return Page(
        title=f"Ablation of WinCLIP on {record['title']}",
        record=record,
        counted=count_categories(len(record["finished"]), len(record["categories"])),
        switches=Table("Switches", "", header, rows, len(header)),
        share_text=" ".join(filter(None, [SHARE_TEXT, interval_text(ablation)])),
        left_out="" if "resize" in switches else left_out,
        sections=[describe_shots(ablation, shots) for shots in all_shots],
    )


def describe_shots(ablation: Ablation, shots: int) -> Section:
    """Return what the pages show for one number of shots."""
    rows = ablation.effects[ablation.effects["shots"] == shots]
    switches, rows = switches_of(rows), rows.set_index(["metric", "switch"])
    return Section(
        name=f"{shots}-shot",
        sentences=sentences(rows, switches, shots),
        charts=[(METRIC_NAMES[metric], chart(ablation, shots, metric)) for metric in METRICS],
        has_published=published_means(ablation, shots, METRICS[0])[0] > 0,  # not NaN
        tables=[
            share_table(rows, switches),
            walk_table(rows, switches),
            departure_table(ablation, shots),
        ],
        corners=corner_table(ablation, shots),
    )


def interval_text(ablation: Ablation) -> str:
    """Say why shares lack an interval; "" if all have one."""
    needed, count = MIN_CATEGORIES, len(ablation.record["finished"])
    steps = ablation.effects[ablation.effects["switch"] != START]
    if not steps["low"].isna().any():
        return ""
    reason = f"; this ablation has {count}" if count < needed else ", each with a defined metric"
    return f"An interval needs at least {needed} categories{reason}."


def switches_of(effects: pd.DataFrame) -> list[str]:
    """Return the switches of the walk, in its order."""
    return list(dict.fromkeys(effects["switch"]))[1:]


def sentences(rows: pd.DataFrame, switches: Sequence[str], shots: int) -> list[str]:
    """Return one sentence for the whole gap, and one for each switch."""
    gaps = []
    for metric in HEADLINES:
        start, end = (rows["value"][metric, name] for name in (START, switches[-1]))
        change = f"from {number(start)} (public) to {number(end)} (paper)"
        gaps.append(f"{METRIC_NAMES[metric]} {change}: {difference(end - start)}")
    texts = ["; ".join(gaps)]
    for switch in switches:
        by_metric = rows.xs(switch, level="switch")
        if (by_metric["share"] == 0).all():
            texts.append(f"{switch_name(switch)}: changes nothing in {shots}-shot")
            continue
        parts = []
        for metric in HEADLINES:
            row = by_metric.loc[metric]
            bounds = interval(row)
            bounds = f"95 % interval {bounds} over categories" if bounds else "interval n/a"
            parts.append(f"{difference(row.share)} {METRIC_NAMES[metric]}, {bounds}")
        texts.append(f"{switch_name(switch)}: {'; '.join(parts)}")
    return texts


def share_table(rows: pd.DataFrame, switches: Sequence[str]) -> Table:
    """Return the table of the share of each switch, between the means of public and of paper."""
    values = rows["value"].unstack("metric")
    body = [[START, *format_means(values.loc[START])]]
    for switch in switches:
        effects = [rows.loc[(metric, switch)] for metric in METRICS]
        cells = (f"{difference(row.share)} {interval(row)}".strip() for row in effects)
        body.append([switch_name(switch), *cells])
    body.append(["paper", *format_means(values.loc[switches[-1]])])
    intervals = " with 95 % bootstrap intervals over categories in brackets"
    text = f"Shapley values{'' if rows['low'].isna().all() else intervals}."
    return metric_table("Share of each switch", text, "switch", body)


def walk_table(rows: pd.DataFrame, switches: Sequence[str]) -> Table:
    """Return the table of the walk from public to paper."""
    values = rows["value"].unstack("metric")
    body = [[START, *format_means(values.loc[START])]]
    body += [[f"+ {switch_name(name)}", *format_means(values.loc[name])] for name in switches]
    return metric_table("From public to paper, step by step", WALK_TEXT, "switch", body)


def departure_table(ablation: Ablation, shots: int) -> Table:
    """Return the table of single departures, with the paper's own rows below ours.

    Those that change no metric are named below the title instead.
    """
    means = ablation.means[ablation.means["shots"] == shots]
    means = means.pivot(index="variant", columns="metric", values="mean")
    changes = means - means.loc["paper"]
    is_mvtec = ablation.record["settings"]["dataset"] == "mvtec" and is_full(ablation)
    paper_rows = PAPER_ROWS if is_mvtec and shots == 0 else {}
    cells, unchanged = {"paper": format_means(means.loc["paper"])}, []
    has_unaffected = False
    for variant in compared_variants(ablation, shots):
        name = variant.name
        if (changes.loc[name].abs() < UNCHANGED).all():
            unchanged.append(variant_name(name))
        else:
            affected = variant.few_shot_metrics if shots else variant.zero_shot_metrics
            cells[name] = departure_cells(affected, means.loc[name], changes.loc[name])
            has_unaffected |= not set(METRICS) <= set(affected)
    body = []
    for name, row in cells.items():
        body.append([variant_name(name), "ours", *row])
        if name in paper_rows:
            numbers = pd.Series(paper_rows[name]).reindex(METRICS)
            body.append([name, "paper", *(cell(value) or UNPUBLISHED for value in numbers)])
    text = DEPARTURE_TEXT
    if unchanged:
        text += f" These change no metric: {'; '.join(unchanged)}."
    if has_unaffected:
        text += f" {UNAFFECTED_TEXT}"
    if paper_rows:
        header = ["variant", "source", *(METRIC_NAMES[metric] for metric in METRICS)]
        return Table(DEPARTURES, f"{text} {PAPER_TEXT}", header, body, 2)
    return metric_table(DEPARTURES, text, "variant", [[row[0], *row[2:]] for row in body])


def departure_cells(affected: Sequence[str], means: pd.Series, changes: pd.Series) -> list[str]:
    """Return the mean of each metric with its change; n/a if undefined or not `affected`."""
    return [
        f"{number(means[metric])} ({difference(changes[metric])})"
        if metric in affected and not pd.isna(means[metric])
        else UNDEFINED
        for metric in METRICS
    ]


def compared_variants(ablation: Ablation, shots: int) -> list[Variant]:
    """Return the variants to compare with `paper` at a number of shots."""
    departures = [variant for variant in ablation.variants if variant.kind == "departure"]
    compared = [*single_changes(ablation.variants), *departures]
    return [variant for variant in compared if shots or variant.in_zero_shot_tables]


def corner_table(ablation: Ablation, shots: int) -> Table:
    """Return the table of all corners; those that repeat others in 0-shot are left out."""
    means = ablation.means
    rows = means[(means["shots"] == shots) & (means["kind"] == "corner")]
    if shots == 0:
        repeated = [v.name for v in ablation.variants if not v.in_zero_shot_tables]
        rows = rows[~rows["variant"].isin(repeated)]
    values = rows.pivot(index="variant", columns="metric", values="mean")
    names = rows["variant"].unique()
    body = [[variant_name(name), *format_means(values.loc[name])] for name in names]
    text = "Every combination of the settings, named by what differs from the paper's protocol."
    return metric_table(f"All {len(body)} combinations", text, "difference from paper", body)


def metric_table(title: str, text: str, first: str, rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose columns are `first` and all metrics."""
    return Table(title, text, [first, *(METRIC_NAMES[metric] for metric in METRICS)], rows, 1)


def format_means(by_metric: pd.Series) -> list[str]:
    """Format the means of all metrics."""
    return [number(by_metric[metric]) for metric in METRICS]


def number(value: float) -> str:
    """Format a value in percent, or n/a."""
    return cell(value) or UNDEFINED


def chart(ablation: Ablation, shots: int, metric: str) -> Markup | None:
    """Draw the waterfall of one metric from public to paper; None if it is undefined."""
    effects = ablation.effects
    rows = effects[(effects["shots"] == shots) & (effects["metric"] == metric)]
    if rows["value"].isna().any():
        return None
    steps = [
        Step(switch_name(r.switch), r.share, r.low, r.high) for r in rows.iloc[1:].itertuples()
    ]
    start, end = rows["value"].iloc[0], rows["value"].iloc[-1]
    parts = ", ".join(f"{step.name} {difference(step.gain)}" for step in steps)
    label = f"{METRIC_NAMES[metric]}: public {start:.1f}, {parts}, paper {end:.1f}"
    return waterfall_chart(start, steps, published_means(ablation, shots, metric), label)


def published_means(ablation: Ablation, shots: int, metric: str) -> tuple[float, float]:
    """Return the means of the closest public implementation and of the paper; NaN if unpublished.

    They are over all images of all categories, so a partial ablation has none.
    """
    rows = published(ablation.record["settings"]["dataset"])
    row = rows[(rows["category"] == MEAN) & (rows["shots"] == shots) & (rows["metric"] == metric)]
    if row.empty or not is_full(ablation):
        return float("nan"), float("nan")
    return tuple(row[["public", "paper"]].iloc[0])


def is_full(ablation: Ablation) -> bool:
    """Return whether the means are over all images of all categories with published numbers."""
    finished, settings = set(ablation.record["finished"]), ablation.record["settings"]
    categories = set(published(settings["dataset"])["category"]) - {MEAN}
    every = finished == set(ablation.record["categories"]) and finished >= categories
    return every and settings["limit"] is None


def interval(row: pd.Series) -> str:
    """Format the interval of a share: `[0.1, 1.1]`; "" if there is none."""
    if pd.isna(row.low):
        return ""
    bounds = (f"{round(bound, 1) + 0:.1f}" for bound in (row.low, row.high))  # -0.0 + 0 is 0.0
    return f"[{', '.join(bounds)}]".replace("-", "−")

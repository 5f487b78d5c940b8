"""Write the pages of an ablation: ablation.md, ablation.tex and ablation.html.

They show the tables of `utils.ablation.analysis`, in percent: the effects of the switches and the
means of all variants. ablation.html needs no other file and no network.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from utils.evaluation.metrics import METRICS
from utils.files import write_text
from utils.report.markdown import UNDEFINED, UNPUBLISHED, count_categories, table
from utils.report.page import METRIC_NAMES, asset, difference, template
from utils.report.waterfall import Step, waterfall_chart
from utils.results.latex import escape, latex_float, latex_table
from utils.results.summary import MEAN, published_for

HEADLINES = ("image_auroc", "pixel_auroc")  # the metrics of the sentences
# For each switch its name, what the closest public implementation does, and what the paper does.
MEANINGS = {
    "templates": (
        "prompt templates",
        "21 prompt templates, one of them twice",
        "the paper's 22 prompt templates",
    ),
    "class_words": (
        "class names",
        'class names as "metal_nut"',
        'class names as words: "metal nut"',
    ),
    "normalise_prompts": (
        "normalised prompts",
        "prompt embeddings averaged as they are",
        "each prompt embedding scaled to length 1 before averaging",
    ),
    "patch_tokens": (
        "patch tokens",
        "patch tokens before ln_post (WinCLIP+ only)",
        "patch tokens after ln_post (WinCLIP+ only)",
    ),
    "resize": (
        "resizing",
        "images squashed to a square",
        "images cut into overlapping square tiles",
    ),
}
# The values of settings that differ from the paper's, as they are in the names of corners.
DIFFERENCES = {
    "templates=public": "21 public templates",
    "class_words=False": 'class names as "metal_nut"',
    "normalise_prompts=False": "prompts not normalised",
    "temperature=0.01": "temperature 0.01",
    "patch_tokens=pre_ln": "patch tokens before ln_post",
    "patch_tokens=penultimate": "patch tokens of the penultimate block",
    "resize=squash": "squashed images",
}
SWITCH_HEADER = ["switch", "setting", "public", "paper"]
SHARE_TEXT = (
    "The share of a switch is its effect averaged over all orders in which the switches can be "
    "set (its Shapley value). The shares add up to the whole gap and do not depend on an order."
)
SHARE_TABLE_TEXT = "Shapley values."
SHARE_INTERVAL_TEXT = "Shapley values with 95 % bootstrap intervals over categories in brackets."
WALK_TEXT = "The means after setting one switch after another, in this order."
DEPARTURES = "Single departures from paper"
DEPARTURE_TEXT = (
    "Each row changes one thing in the paper's protocol; differences are in parentheses."
)
PAPER_TEXT = (
    'Rows with the source "paper" are from the paper: its ablation on MVTec AD (arXiv 2303.14814), '
    "whose row for our protocol is the one before multi-crop. The paper does not define "
    "multi-crop, so its row with multi-crop is repeated below each of ours."
)

published = cache(published_for)  # every chart and table asks for the same numbers


class Ablation(NamedTuple):
    """The content of the pages."""

    record: Mapping  # settings.json: title, categories, notes, settings ...
    effects: pd.DataFrame  # of `utils.ablation.analysis`
    means: pd.DataFrame
    departures: Sequence[str]  # the variants to compare with `paper`, in order
    few_shot: Collection[str]  # the variants that repeat others in 0-shot
    min_categories: int  # an interval needs as many
    # The paper's own ablation on MVTec AD, 0-shot: variant to metric to percent.
    paper_rows: Mapping[str, Mapping[str, float]]


class Table(NamedTuple):
    """A table as text, whatever it is written as."""

    title: str
    text: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int


def write_pages(folder: Path, ablation: Ablation) -> str:
    """Write the three pages into the result folder; return the Markdown."""
    page = markdown_page(ablation)
    write_text(folder / "ablation.md", page)
    write_text(folder / "ablation.tex", latex_page(ablation, folder.name))
    write_text(folder / "ablation.html", html_page(ablation))
    return page


def markdown_page(ablation: Ablation) -> str:
    """Return the tables and sentences as Markdown."""
    blocks = [f"# {title(ablation)}", *(f"**{note}**" for note in ablation.record["notes"])]
    texts = [f"Means over {category_count(ablation)}, in percent.", SHARE_TEXT]
    texts += [interval_text(ablation), left_out(ablation)]
    blocks.append(" ".join(filter(None, texts)))
    blocks.append(table(SWITCH_HEADER, switch_rows(ablation), len(SWITCH_HEADER)))
    for shots in shots_of(ablation):
        blocks.append(f"## {shots}-shot")
        blocks.append("\n".join(f"- {sentence}" for sentence in sentences(ablation, shots)))
        for content in tables(ablation, shots):
            blocks += [f"### {content.title}", content.text]
            blocks.append(table(content.header, content.rows, content.text_columns))
    return "\n\n".join(block for block in blocks if block) + "\n"


def latex_page(ablation: Ablation, name: str) -> str:
    """Return the tables as LaTeX floats, with the notes in every caption; labels have `name`."""
    notes = [f"{note}." for note in ablation.record["notes"]]
    floats = []
    for shots in shots_of(ablation):
        for index, content in enumerate(tables(ablation, shots)):
            head = f"{content.title}, {title(ablation)}, {shots}-shot."
            caption = " ".join([head, content.text, "Percent.", *notes])
            rows = [[escape(cell) for cell in row] for row in content.rows]
            header = [escape(cell) for cell in content.header]
            body = latex_table(header, rows, content.text_columns)
            label = f"ablation-{name}-{shots}-shot-{index}"
            floats.append(latex_float(body, escape(caption), label))
    return "\n".join(floats)


def html_page(ablation: Ablation) -> str:
    """Return the page as HTML."""
    return template("ablation.html.j2").render(
        title=title(ablation),
        record=ablation.record,
        counted=category_count(ablation),
        switch_header=SWITCH_HEADER,
        switches=switch_rows(ablation),
        order=map(switch_name, ablation.record["settings"]["order"]),
        share_text=" ".join(filter(None, [SHARE_TEXT, interval_text(ablation)])),
        left_out=left_out(ablation),
        sections=[html_section(ablation, shots) for shots in shots_of(ablation)],
        css=asset("report.css"),
    )


def html_section(ablation: Ablation, shots: int) -> dict:
    """Return what the page shows for one number of shots."""
    return {
        "name": f"{shots}-shot",
        "sentences": sentences(ablation, shots),
        "charts": [(METRIC_NAMES[metric], chart(ablation, shots, metric)) for metric in METRICS],
        "published": published_means(ablation, shots, METRICS[0])[0] > 0,  # not NaN
        "tables": [*tables(ablation, shots), corner_table(ablation, shots)],
    }


def title(ablation: Ablation) -> str:
    """Return the title of the pages."""
    return f"Ablation of WinCLIP on {ablation.record['title']}"


def category_count(ablation: Ablation) -> str:
    """Say how many categories the means are over."""
    return count_categories(len(ablation.record["finished"]), len(ablation.record["categories"]))


def left_out(ablation: Ablation) -> str:
    """Say that resizing has no effect on these images; "" if it has one."""
    text = f"The switch {switch_name('resize')} is left out: all images are square."
    return "" if "resize" in switches_of(ablation.effects) else text


def interval_text(ablation: Ablation) -> str:
    """Say why shares have no interval; "" if all have one."""
    needed, count = ablation.min_categories, len(ablation.record["finished"])
    steps = ablation.effects[ablation.effects["switch"] != "public"]
    if not steps["low"].isna().any():
        return ""
    reason = f"; this ablation has {count}" if count < needed else ", each with a defined metric"
    return f"An interval needs at least {needed} categories{reason}."


def switch_name(setting: str) -> str:
    """Return the name of a switch, or of `public`, in words."""
    return MEANINGS[setting][0] if setting in MEANINGS else setting


def switch_rows(ablation: Ablation) -> list[list[str]]:
    """Return the row of each switch under SWITCH_HEADER."""
    return [
        [switch_name(name), name, *MEANINGS.get(name, ("",) * 3)[1:]]
        for name in switches_of(ablation.effects)
    ]


def variant_name(variant: str) -> str:
    """Return the name of a variant with its settings in words.

    >>> variant_name("temperature=0.01 resize=squash"), variant_name("without states")
    ('temperature 0.01, squashed images', 'without states')
    """
    words = variant.split()
    return ", ".join(map(DIFFERENCES.get, words)) if DIFFERENCES.keys() >= {*words} else variant


def shots_of(ablation: Ablation) -> list[int]:
    """Return the numbers of shots, in ascending order."""
    return sorted(set(ablation.effects["shots"]))


def switches_of(effects: pd.DataFrame) -> list[str]:
    """Return the switches of the walk, in its order."""
    return list(dict.fromkeys(effects["switch"]))[1:]


def sentences(ablation: Ablation, shots: int) -> list[str]:
    """Return one sentence for each switch, and one for the whole gap."""
    rows = ablation.effects[ablation.effects["shots"] == shots]
    switches, rows = switches_of(rows), rows.set_index(["metric", "switch"])
    gaps = []
    for metric in HEADLINES:
        start, end = (rows["value"][metric, name] for name in ("public", switches[-1]))
        change = f"from {number(start)} (public) to {number(end)} (paper)"
        gaps.append(f"{METRIC_NAMES[metric]} {change}: {difference(end - start)}")
    texts = ["; ".join(gaps)]
    for switch in switches:
        by_metric = {metric: rows.loc[(metric, switch)] for metric in METRICS}
        if all(row.share == 0 for row in by_metric.values()):
            texts.append(f"{switch_name(switch)}: changes nothing in {shots}-shot")
            continue
        parts = []
        for metric in HEADLINES:
            row = by_metric[metric]
            bounds = interval(row)
            bounds = f"95 % interval {bounds} over categories" if bounds else "interval n/a"
            parts.append(f"{difference(row.share)} {METRIC_NAMES[metric]}, {bounds}")
        texts.append(f"{switch_name(switch)}: {'; '.join(parts)}")
    return texts


def tables(ablation: Ablation, shots: int) -> Iterator[Table]:
    """Yield the tables for one number of shots: shares, walk, departures."""
    rows = ablation.effects[ablation.effects["shots"] == shots]
    switches, rows = switches_of(rows), rows.set_index(["metric", "switch"])
    names = [METRIC_NAMES[metric] for metric in METRICS]
    values = rows["value"]
    last = switches[-1]
    body = [["public", *(number(values[metric, "public"]) for metric in METRICS)]]
    for switch in switches:
        effects = [rows.loc[(metric, switch)] for metric in METRICS]
        cells = (f"{difference(row.share)} {interval(row)}".strip() for row in effects)
        body.append([switch_name(switch), *cells])
    body.append(["paper", *(number(values[metric, last]) for metric in METRICS)])
    text = SHARE_TABLE_TEXT if rows["low"].isna().all() else SHARE_INTERVAL_TEXT
    yield Table("Share of each switch", text, ["switch", *names], body, 1)
    body = [
        [f"+ {switch_name(name)}", *(number(values[m, name]) for m in METRICS)] for name in switches
    ]
    body.insert(0, ["public", *(number(values[m, "public"]) for m in METRICS)])
    yield Table("From public to paper, step by step", WALK_TEXT, ["switch", *names], body, 1)
    yield departure_table(ablation, shots)


def departure_table(ablation: Ablation, shots: int) -> Table:
    """Return the table of single departures, with the paper's own rows below ours."""
    values = ablation.means[ablation.means["shots"] == shots].set_index(["variant", "metric"])[
        "mean"
    ]
    paper_rows = ablation.paper_rows if shots == 0 and is_full_mvtec(ablation) else {}
    hidden = ablation.few_shot if shots == 0 else ()
    present = [name for name in ("paper", *ablation.departures) if name not in hidden]
    body = []
    for name in present:
        cells = [number(values[name, metric]) for metric in METRICS]
        if name != "paper":
            changes = [difference(values[name, m] - values["paper", m]) for m in METRICS]
            cells = [f"{cell} ({change})" for cell, change in zip(cells, changes, strict=True)]
        body.append([variant_name(name), "ours", *cells])
        if name in paper_rows:
            numbers = paper_rows[name]
            cells = [f"{numbers[m]:.1f}" if m in numbers else UNPUBLISHED for m in METRICS]
            body.append([name, "paper", *cells])
    header = ["variant", "source", *(METRIC_NAMES[metric] for metric in METRICS)]
    if all(row[1] == "ours" for row in body):
        header, body = [header[0], *header[2:]], [[row[0], *row[2:]] for row in body]
        return Table(DEPARTURES, DEPARTURE_TEXT, header, body, 1)
    return Table(DEPARTURES, f"{DEPARTURE_TEXT} {PAPER_TEXT}", header, body, 2)


def corner_table(ablation: Ablation, shots: int) -> Table:
    """Return the table of all corners; those that repeat others in 0-shot are left out."""
    means = ablation.means
    rows = means[(means["shots"] == shots) & (means["kind"] == "corner")]
    if shots == 0:
        rows = rows[~rows["variant"].isin(ablation.few_shot)]
    body = []
    for name, numbers in rows.groupby("variant", sort=False):
        by_metric = numbers.set_index("metric")["mean"]
        body.append([variant_name(name), *(number(by_metric[metric]) for metric in METRICS)])
    header = ["difference from paper", *(METRIC_NAMES[metric] for metric in METRICS)]
    text = "Every combination of the settings, named by what differs from the paper's protocol."
    return Table(f"All {len(body)} combinations", text, header, body, 1)


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
    if not is_full(ablation, set(rows["category"]) - {MEAN}):
        return float("nan"), float("nan")
    row = rows[(rows["category"] == MEAN) & (rows["shots"] == shots) & (rows["metric"] == metric)]
    return tuple(row[["public", "paper"]].iloc[0]) if len(row) else (float("nan"),) * 2


def is_full_mvtec(ablation: Ablation) -> bool:
    """Return whether the means are over all images of MVTec AD."""
    categories = set(published("mvtec")["category"]) - {MEAN}
    return ablation.record["settings"]["dataset"] == "mvtec" and is_full(ablation, categories)


def is_full(ablation: Ablation, categories: Collection[str]) -> bool:
    """Return whether the means are over all images of `categories`, all of the benchmark."""
    finished, record = set(ablation.record["finished"]), ablation.record
    every = finished == set(record["categories"]) and finished.issuperset(categories)
    return every and record["settings"]["limit"] is None


def interval(row: pd.Series) -> str:
    """Format the interval of a share: `[0.1, 1.1]`; "" if there is none."""
    if pd.isna(row.low):
        return ""
    bounds = (f"{round(bound, 1) + 0:.1f}" for bound in (row.low, row.high))  # -0.0 + 0 is 0.0
    return f"[{', '.join(bounds)}]".replace("-", "−")


def number(value: float) -> str:
    """Format a value in percent, or n/a."""
    return UNDEFINED if pd.isna(value) else f"{value:.1f}"

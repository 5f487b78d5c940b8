"""Compare results: means over categories, differences from the first result, intervals and wins.

All numbers of a comparison are percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from utils.compare.differences import describe_differences
from utils.compare.intervals import compare_category, interval, why_undefined
from utils.compare.sources import Source, describe_row, match_single_categories
from utils.errors import InputError
from utils.evaluation.metrics import IMAGE_METRICS, metric_order
from utils.results.methods import variant_of
from utils.results.summary import (
    MEAN,
    PERCENT,
    category_means,
    mean_or_nan,
    metric_title,
    std_or_nan,
)

MAX_NAMES = 5  # of the categories that a remark lists
MIN_IMAGES = 10  # good ones, and anomalous ones, in all categories together
TIE = 0.005  # percent: less than the tables show
PIXELS = (
    "Metrics other than image AUROC, AUPR and F1-max have no interval: it would need every mask, "
    "and thousands of evaluations of all pixels. Their ± is the deviation over seeds."
)


@dataclass(frozen=True)
class Comparison:
    """The comparison of some results.

    Columns of `table`: shots, metric, category (`MEAN` for the mean over categories), result, mean,
    std (over seeds) and runs; difference to the first result; low, high and p of its interval;
    wins, ties and losses: the categories in which the result is above, equal to and below the
    first. Those from `low` on are only of means. Undefined is NaN. `result` is one of `labels`.
    """

    names: list[str]
    labels: dict[int, list[str]]  # by shots, in the order of `names`: see `result_label`
    notes: list[str]  # warnings of the runs, each once, with its results
    differences: list[list[str]]  # of the runs: kind, name, value in each result
    remarks: list[str]
    reasons: list[str]  # why there is no interval
    categories: list[str]
    table: pd.DataFrame


def compare(sources: Sequence[Source], seed: int = 0) -> Comparison:
    """Compare results with the first of them, in the categories that all have.

    `seed` is that of the resampling.
    """
    sources, match_remarks = match_single_categories(sources)
    categories, remarks = common_categories(sources)
    tables = [source_means(source, categories) for source in sources]
    shots, shots_remarks = common_shots(sources)
    keys = ["shots", "metric", "category"]
    first = tables[0].set_index(keys)["mean"].rename("first")
    table = pd.concat(tables, ignore_index=True).query("shots in @shots")
    table = table.merge(first, left_on=keys, right_index=True, how="left")
    table["difference"] = table["mean"] - table.pop("first")
    table.loc[table["result"] == sources[0].name, "difference"] = np.nan
    rng = np.random.default_rng(seed)
    variances, reasons = {}, []
    for count in shots:
        shot_variances, shot_reasons = difference_variances(sources, categories, count, rng)
        variances |= shot_variances
        reasons += shot_reasons
    labels = {count: [result_label(source, count) for source in sources] for count in shots}
    names = [source.name for source in sources]
    table, undefined = add_statistics(table, variances)
    pairs = zip(table["shots"], table["result"], strict=True)
    table["result"] = [labels[count][names.index(name)] for count, name in pairs]
    source_remarks = [f"{source.name}: {text}" for source in sources for text in source.remarks]
    return Comparison(
        names=names,
        labels=labels,
        notes=shared_notes(sources),
        differences=describe_differences(sources),
        remarks=[*source_remarks, *match_remarks, *remarks, *shots_remarks],
        reasons=[*dict.fromkeys(reasons), *undefined],
        categories=categories,
        table=table,
    )


def shared_notes(sources: Sequence[Source]) -> list[str]:
    """Return each warning of the runs after the names of the results that have it."""
    names = {}
    for source in sources:
        for note in source.record.get("notes", ()):
            names.setdefault(note, []).append(source.name)
    return [f"{', '.join(names)}: {note}" for note, names in names.items()]


def result_label(source: Source, shots: int) -> str:
    """Return the name of a result, with the variant of its method: "fast, patch tokens"."""
    variant = variant_of(source.record["settings"]) if source.record and shots else ""
    return f"{source.name}, {variant}" if variant else source.name


def common_categories(sources: Sequence[Source]) -> tuple[list[str], list[str]]:
    """Return the categories that all results have, and a remark on those that are left out."""
    names = [list(dict.fromkeys(source.metrics["category"])) for source in sources]
    common = [name for name in names[0] if all(name in others for others in names)]
    if not common:
        pairs = zip(sources, names, strict=True)
        have = "; ".join(f"{s.name} has {list_names(categories)}" for s, categories in pairs)
        raise InputError(
            f"no category is in all results: {have}; give results on the same categories"
        )
    left_out = sorted(set().union(*names) - set(common))
    text = f"Left out, because not all results have them: {list_names(left_out)}."
    return common, [text] if left_out else []


def common_shots(sources: Sequence[Source]) -> tuple[list[int], list[str]]:
    """Return the numbers of shots of the first result and of another, and a remark on the rest."""
    first, *others = [set(source.metrics["shots"]) for source in sources]
    common = sorted(first & set().union(*others))
    if not common:
        counts = ", ".join(map(str, sorted(first)))
        raise InputError(
            f"no other result has a number of shots of {sources[0].name} ({counts}); give results "
            "that share one"
        )
    left_out = sorted(first.union(*others) - set(common))
    names = ", ".join(f"{shots}-shot" for shots in left_out)
    text = f"Left out, because the first result and the others do not share them: {names}."
    return common, [text] if left_out else []


def list_names(names: Sequence[str]) -> str:
    """List at most MAX_NAMES names, and count the others."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def source_means(source: Source, categories: Sequence[str]) -> pd.DataFrame:
    """Return mean, deviation and number of seeds of each category and of the mean over all.

    Raise `InputError` if a run lacks a metric in some of the categories.
    """
    rows = source.metrics[source.metrics["category"].isin(categories)]
    runs = rows.groupby(["shots", "seed", "metric"], dropna=False)
    partial = rows[runs["category"].transform("size") < len(categories)]
    if len(partial):
        raise InputError(
            f"{source.path} has a value of {describe_row(partial.iloc[0])}, but not in all of the "
            f"{len(categories)} categories; add the others (empty if undefined)"
        )
    rows = pd.concat([rows, category_means(rows, MEAN)], ignore_index=True)
    rows["value"] *= PERCENT
    groups = rows.groupby(["shots", "metric", "category"], sort=False)["value"]
    table = groups.agg(mean=mean_or_nan, std=std_or_nan, runs="size").reset_index()
    return table.assign(result=source.name)


def difference_variances(
    sources: Sequence[Source], categories: Sequence[str], shots: int, rng: np.random.Generator
) -> tuple[dict[tuple, tuple[np.ndarray, list[int]]], list[str]]:
    """Return the variances of the differences, and why there are none for some results.

    Keys are (result, shots, metric); values are the arguments `variances` and `freedoms` of
    `interval` for the mean over `categories`.
    """
    first, *others = [source for source in sources if shots in set(source.metrics["shots"])]
    reasons = {source.name: no_interval(first, source, categories, shots) for source in others}
    paired = [source for source in others if not reasons[source.name]]
    reasons = [text for text in reasons.values() if text]
    if not paired:
        return {}, reasons
    variances, freedoms = [], []
    for category in categories:
        results = [source.scores[category] for source in (first, *paired)]
        values = np.array([result.values[result.shots == shots] for result in results])
        compared = compare_category(values, results[0].is_anomalous, rng)
        variances.append(compared.variances * (PERCENT / len(categories)) ** 2)
        freedoms += compared.freedoms
    components = np.concatenate(variances).transpose(1, 2, 0).reshape(-1, len(freedoms))
    keys = [(source.name, shots, metric) for source in paired for metric in IMAGE_METRICS]
    return {key: (row, freedoms) for key, row in zip(keys, components, strict=True)}, reasons


def no_interval(first: Source, other: Source, categories: Sequence[str], shots: int) -> str:
    """Say why there is no interval of the difference between two results; "" if there is one."""
    head = f"No interval or p-value for {other.name}"
    for source in (first, other):
        if not source.scores.keys() >= set(categories):
            holder = "it" if source is other else source.name
            return f"{head}: {holder} holds numbers, not the scores of the images."
    for category in categories:
        scores = [source.scores[category] for source in (first, other)]
        labels = scores[0].is_anomalous
        seeds = [result.seed[result.shots == shots].tolist() for result in scores]
        if not np.array_equal(*(result.image for result in scores)):
            return f"{head}: its images of {category} are not those of {first.name}."
        if not np.array_equal(labels, scores[1].is_anomalous):
            return f"{head}: its labels of {category} are not those of {first.name}."
        if seeds[0] != seeds[1]:
            names = [" ".join(map(str, values)) or "none" for values in seeds]
            return (
                f"{head} at {shots}-shot: its seeds of {category} are {names[1]}, those of "
                f"{first.name} {names[0]}."
            )
        if min(labels.sum(), (~labels).sum()) < 2:
            return f"{head}: {category} has fewer than two good or two anomalous images."
    every = np.concatenate([first.scores[category].is_anomalous for category in categories])
    if min(every.sum(), (~every).sum()) < MIN_IMAGES:
        return (
            f"{head}: there are {(~every).sum()} good and {every.sum()} anomalous images, and an "
            f"interval needs at least {MIN_IMAGES} of each."
        )
    return ""


def add_statistics(
    table: pd.DataFrame, variances: dict[tuple, tuple[np.ndarray, list[int]]]
) -> tuple[pd.DataFrame, list[str]]:
    """Add the columns from `low` on to the rows of means, and sort the table.

    Also say why intervals with a variance are undefined.
    """
    is_mean = table["category"] == MEAN
    signs = table[~is_mean].assign(
        wins=table["difference"] > TIE,
        ties=table["difference"].abs() <= TIE,
        losses=table["difference"] < -TIE,
    )
    counts = signs.groupby(["result", "shots", "metric"])[["wins", "ties", "losses"]].sum()
    rows, reasons = {}, []
    for row in table[is_mean & table["difference"].notna()].itertuples():
        key = row.result, row.shots, row.metric
        limits = [np.nan] * 3
        if key in variances:
            limits = interval(row.difference, *variances[key])
            if reason := why_undefined(row.difference, *variances[key]):
                name = f"{metric_title(row.metric)} of {row.result} at {row.shots}-shot"
                reasons.append(f"No interval or p-value for {name}: {reason}.")
        rows[row.Index] = [*limits, *counts.loc[key]]
    names = ["low", "high", "p", "wins", "ties", "losses"]
    table = table.join(pd.DataFrame.from_dict(rows, orient="index", columns=names))
    order = sorted(table["metric"].unique(), key=rank)
    table["metric"] = pd.Categorical(table["metric"], order)
    table = table.sort_values(["shots", "metric"], kind="stable", ignore_index=True)
    return table.astype({"metric": str}), reasons


def rank(metric: str) -> tuple:
    """Return the sort key of a metric; unknown ones of a CSV file come last."""
    try:
        return metric_order(metric)
    except ValueError:
        return (float("inf"), float("inf"))

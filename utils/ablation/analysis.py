"""Analyse the metrics of all variants: the walk, the share of each switch, and all means.

The long form, ablation.csv, has one row per variant, category, shots, seed and metric, and a column
for each setting of the variant's protocol; values are in [0, 1], empty where undefined. All other
tables are means over categories, in percent.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from utils.ablation.shares import bootstrap_interval, shapley_shares, walk
from utils.ablation.variants import PAPER, PUBLIC, Variant
from utils.results.summary import PERCENT, mean_or_nan

KEYS = ["shots", "metric"]
START = "public"  # the first row of a walk


def long_form(finished: Mapping[str, Mapping], variants: Sequence[Variant]) -> pd.DataFrame:
    """Return the rows of ablation.csv from the records of the finished categories.

    A record's `metrics` are (variant, shots, seed, metric, value), the variant by its name.
    """
    by_name = {variant.name: variant for variant in variants}
    rows = [
        {"kind": by_name[name].kind, "variant": name, **by_name[name].protocol}
        | {"category": category, "shots": shots, "seed": seed, "metric": metric, "value": value}
        for category, record in finished.items()
        for name, shots, seed, metric, value in record["metrics"]
    ]
    return pd.DataFrame(rows).astype({"seed": "Int64", "value": float})


def category_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds: a column for each variant, a row for each category; NaN if undefined."""
    by_variant = rows.groupby(["category", "variant"], sort=False)["value"]
    return by_variant.agg(mean_or_nan).unstack("variant")


def effects(table: pd.DataFrame, variants: Sequence[Variant], order: Sequence[str]) -> pd.DataFrame:
    """Return what each switch of `order` changes, for each number of shots and metric.

    Columns besides KEYS: switch (START, then `order`), value (after setting it on the walk), gain
    (its step of the walk), share (its Shapley value), low and high (the interval of the share over
    categories). The row of START has a value only.
    """
    names = {
        frozenset(name for name in order if variant.protocol[name] == PAPER[name]): variant.name
        for variant in variants
        if variant.kind == "corner" and is_between(variant, order)
    }
    results = []
    for (shots, metric), rows in table.groupby(KEYS, sort=False):
        by_category = category_values(rows) * PERCENT
        corners = {on: by_category[name].to_numpy() for on, name in names.items()}
        steps, shares = walk(corners, order), shapley_shares(corners, order)
        results.append((shots, metric, START, steps[0].mean(), *[np.nan] * 4))
        for switch, before, after in zip(order, steps, steps[1:], strict=False):
            share = shares[switch]
            row = shots, metric, switch, after.mean(), (after - before).mean(), share.mean()
            results.append((*row, *bootstrap_interval(share)))
    columns = [*KEYS, "switch", "value", "gain", "share", "low", "high"]
    return pd.DataFrame(results, columns=columns)


def is_between(variant: Variant, order: Sequence[str]) -> bool:
    """Return whether a corner lies between `public` and `paper`.

    Each of its settings has the value of `paper`, or if it is a switch in `order`, of `public`.
    """
    return all(
        value == PAPER[name] or (name in order and value == PUBLIC[name])
        for name, value in variant.protocol.items()
    )


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each variant: columns kind, variant, KEYS and mean (percent)."""
    keys = ["kind", "variant", "category", *KEYS]
    by_category = table.groupby(keys, sort=False)["value"].agg(mean_or_nan)
    keys.remove("category")
    mean = by_category.groupby(keys, sort=False).agg(mean_or_nan)
    return (mean * PERCENT).rename("mean").reset_index()

"""Attribute the gap between two protocols to the settings in which they differ.

A corner is a choice of one protocol's value for each switch. It is named by the set of switches
that have the second protocol's value: none for the first protocol, all for the second. Values are
numbers or arrays, such as one value per category; an undefined value (NaN) makes the shares that
depend on it undefined.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np
from scipy.stats import bootstrap

CONFIDENCE = 0.95
RESAMPLES = 9999  # SciPy's default
MIN_CATEGORIES = 5  # an interval over fewer says nothing

Corners = Mapping[frozenset[str], np.ndarray]


def walk(corners: Corners, order: Sequence[str]) -> list[np.ndarray]:
    """Return the values at the start and after each switch, set in this order.

    >>> walk({frozenset(): 90, frozenset("a"): 91, frozenset("b"): 90, frozenset("ab"): 94}, "ab")
    [90, 91, 94]
    """
    return [corners[frozenset(order[:count])] for count in range(len(order) + 1)]


def shapley_shares(corners: Corners, switches: Sequence[str]) -> dict[str, np.ndarray]:
    """Return each switch's Shapley value: its gain, averaged over all orders of the switches.

    The shares of all switches add up to the whole gap (Shapley, 1953).

    >>> corners = {frozenset(): 90, frozenset("a"): 91, frozenset("b"): 90, frozenset("ab"): 94}
    >>> shapley_shares(corners, "ab")  # a: (1 + 4) / 2, b: (3 + 0) / 2
    {'a': 2.5, 'b': 1.5}
    """
    count, shares = len(switches), {}
    for switch in switches:
        others = [name for name in switches if name != switch]
        shares[switch] = sum(
            factorial(size)
            * factorial(count - size - 1)
            / factorial(count)
            * (corners[before | {switch}] - corners[before])
            for size in range(count)
            for before in map(frozenset, combinations(others, size))
        )
    return shares


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of one value per category (percentile bootstrap).

    NaN for fewer than MIN_CATEGORIES categories, and if any value is NaN.
    """
    if len(values) < MIN_CATEGORIES or np.isnan(values).any():
        return float("nan"), float("nan")
    interval = bootstrap(
        *((values,), np.mean),
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)

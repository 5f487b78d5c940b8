"""Count the scores below, and up to, each of many thresholds.

`SortingCounter` sorts the scores with NumPy. `utils.evaluation.rank_index` has a compiled counter,
which is faster for most maps.
"""

import itertools
from collections.abc import Iterable
from typing import Protocol

import numpy as np

BATCH = 1 << 23  # scores sorted together, about: enough that looking up thresholds costs little


class ScoreCounter(Protocol):
    """Counts at K thresholds, in ascending order."""

    def ranks(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the index, from 0 in ascending order, of each given threshold: (n,) int64."""

    def count(self, arrays: Iterable[np.ndarray]) -> np.ndarray:
        """Return how many scores in `arrays`, each (n,), are < and <= each threshold: (2, K)."""


class SortingCounter:
    """Count scores of any float type against the distinct values among `thresholds` (n,)."""

    def __init__(self, thresholds: np.ndarray):
        self.thresholds = np.unique(thresholds)

    def ranks(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the index of each given threshold, as `ScoreCounter` does."""
        return np.searchsorted(self.thresholds, thresholds)

    def count(self, arrays: Iterable[np.ndarray]) -> np.ndarray:
        """Count scores, as `ScoreCounter` does."""
        counts = np.zeros((2, len(self.thresholds)), np.int64)
        arrays = iter(arrays)
        for first in arrays:
            others = itertools.islice(arrays, BATCH // max(1, len(first)))
            scores = np.concatenate([first, *others])
            scores.sort()
            counts[0] += np.searchsorted(scores, self.thresholds, side="left")
            counts[1] += np.searchsorted(scores, self.thresholds, side="right")
        return counts


def score_counter(scores: np.ndarray, compiled: bool) -> ScoreCounter:
    """Return a counter whose thresholds are the distinct values among `scores` (n,).

    It is the compiled one if `compiled`, unless that does not support the scores.
    """
    if compiled:
        from utils.evaluation.rank_index import CompiledCounter  # numba takes long to load

        if CompiledCounter.supports(scores):
            return CompiledCounter(scores)
    return SortingCounter(scores)

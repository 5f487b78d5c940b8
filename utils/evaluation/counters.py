"""Count the scores below, and up to, each of many thresholds.

`SortingCounter` sorts the scores with NumPy. `utils.evaluation.rank_index` has a compiled counter,
which is faster for most maps.
"""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # numba takes long to load
    from utils.evaluation.rank_index import CompiledCounter

BATCH = 1 << 23  # scores sorted together, about: enough that looking up thresholds costs little


class SortingCounter:
    """Count scores of any float type at K thresholds, the distinct values in `thresholds` (n,)."""

    def __init__(self, thresholds: np.ndarray):
        self.thresholds = np.unique(thresholds)

    def ranks(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the index, from 0 in ascending order, of each given threshold: (n,) int64."""
        return np.searchsorted(self.thresholds, thresholds)

    def count(self, arrays: Iterable[np.ndarray]) -> np.ndarray:
        """Return how many scores in `arrays`, each (n,), are < and <= each threshold: (2, K)."""
        counts = np.zeros((2, len(self.thresholds)), np.int64)
        arrays = iter(arrays)
        for first in arrays:
            others = itertools.islice(arrays, BATCH // max(1, len(first)))
            scores = np.concatenate([first, *others])
            scores.sort()
            counts[0] += np.searchsorted(scores, self.thresholds, side="left")
            counts[1] += np.searchsorted(scores, self.thresholds, side="right")
        return counts


def score_counter(scores: np.ndarray, compiled: bool) -> "SortingCounter | CompiledCounter":
    """Return a counter whose thresholds are the distinct values among `scores` (n,).

    It is the compiled one if `compiled`, unless that does not support the scores.
    """
    if compiled:
        from utils.evaluation.rank_index import CompiledCounter

        if CompiledCounter.supports(scores):
            return CompiledCounter(scores)
    return SortingCounter(scores)

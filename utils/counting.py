"""Counting normal scores between the scores of anomalous ones: what every ranking metric needs.

Scores are compared as whole numbers, "keys", that have the same order: the bits of a float, with
its sign turned around. Only the distinct scores of anomalous pixels, the thresholds, are sorted;
each normal pixel then only finds its place among them. Two engines do that with the same result:
"numba" looks the place up in a table, "numpy" sorts the normal pixels of a map and searches.
"""

from typing import Literal

import numba
import numpy as np

Engine = Literal["numba", "numpy"]
TABLE_BITS = 22  # a table has up to 4 million entries, about one for each threshold


def as_floats(scores: np.ndarray) -> np.ndarray:
    """Scores as float32 or float64, whichever keeps them apart: (n,), contiguous."""
    small = scores.dtype in (np.float16, np.float32)
    return np.ascontiguousarray(scores, np.float32 if small else np.float64).reshape(-1)


def keys_of(floats: np.ndarray) -> np.ndarray:
    """Float32 or float64 scores as uint32 or uint64 keys in the same order; -0.0 equals 0.0."""
    unsigned, sign = _kind(floats)
    bits = (floats + floats.dtype.type(0)).view(unsigned)  # -0.0 + 0 is 0.0
    return np.where(bits & sign, ~bits, bits | sign)


def _kind(floats: np.ndarray) -> tuple[type, np.unsignedinteger]:
    """The unsigned type as wide as the scores, and its sign bit."""
    unsigned = np.uint32 if floats.itemsize == 4 else np.uint64
    return unsigned, unsigned(1 << (8 * floats.itemsize - 1))


class Places:
    """The places of scores among `thresholds`, K distinct keys in ascending order."""

    def __init__(self, thresholds: np.ndarray, engine: Engine):
        self.thresholds = thresholds
        self.engine = engine
        if engine == "numba":
            self._make_table()

    def _make_table(self) -> None:
        """Where the thresholds of each of many equal ranges of keys begin."""
        low, high = int(self.thresholds[0]), int(self.thresholds[-1])
        bits = min(TABLE_BITS, len(self.thresholds).bit_length())
        shift = max(0, (high - low).bit_length() - bits)
        self.shift = self.thresholds.dtype.type(shift)
        ranges = (self.thresholds - self.thresholds[0]) >> self.shift
        entries = ((high - low) >> shift) + 2
        self.table = np.searchsorted(ranges, np.arange(entries, dtype=ranges.dtype)).astype(
            np.int32
        )

    def new_counts(self) -> np.ndarray:
        """(2, K + 1) zeros for `count`: scores between thresholds, and equal to one."""
        return np.zeros((2, len(self.thresholds) + 1), np.int32)

    def count(self, floats: np.ndarray, anomalous: np.ndarray, counts: np.ndarray) -> None:
        """Add the normal scores of one map to `counts`.

        Row 0 counts, at k, the scores above threshold k - 1 and below threshold k; row 1 those
        equal to threshold k. `floats` and `anomalous` (bool) are (n,).
        """
        unsigned, sign = _kind(floats)
        if self.engine == "numba":
            _count(
                *(floats.view(unsigned), anomalous, self.thresholds, self.table, self.shift),
                *(sign, unsigned(2 * int(sign) - 1), counts[0], counts[1]),
            )
            return
        keys = np.sort(keys_of(floats[~anomalous]))
        places = np.searchsorted(self.thresholds, keys)
        equal = np.append(self.thresholds, unsigned(0))[places] == keys
        equal &= places < len(self.thresholds)
        for row, chosen in enumerate((places[~equal], places[equal])):
            starts = np.flatnonzero(np.diff(chosen, prepend=-1))
            counts[row, chosen[starts]] += np.diff(starts, append=len(chosen)).astype(np.int32)


@numba.njit(nogil=True)
def _count(bits, anomalous, thresholds, table, shift, sign, full, between, equal):
    """`Places.count` for one map, from the bits of its scores."""
    low, high = thresholds[0], thresholds[-1]
    for i in range(len(bits)):
        if anomalous[i]:
            continue
        key = bits[i]
        if key == sign:
            pass  # the bits of -0.0 are the sign alone, and so is the key of 0.0
        elif key & sign:
            key = key ^ full
        else:
            key = key | sign
        if key < low:
            between[0] += 1
            continue
        if key > high:
            between[-1] += 1
            continue
        entry = (key - low) >> shift
        start, end = table[entry], table[entry + 1]
        while start < end:
            middle = (start + end) >> 1
            if thresholds[middle] < key:
                start = middle + 1
            else:
                end = middle
        if thresholds[start] == key:
            equal[start] += 1
        else:
            between[start] += 1

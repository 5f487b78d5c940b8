"""Two counters of scores below and at thresholds, with the same results.

`SortingCounter` is NumPy alone: it sorts the scores block by block and searches every threshold.
`CompiledCounter` sorts and searches nothing. A float32 has an order-preserving 32-bit key. One bit
for each key marks the thresholds, and every word of 64 bits knows how many thresholds are below
it; so the place of a score is found from one word and its number of ones. Only pages of 16,384
keys that hold a threshold have words of their own. The loops release the interpreter's lock:
threads count side by side, each into its own array.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numba
import numpy as np

PAGES = 1 << 18  # of keys with the same upper 18 bits
WORDS = 1 << 8  # of 64 keys, in a page
MAX_PAGES = 1 << 14  # with thresholds, 2.5 KiB each: 3 million scores in [0, 1] fill 6,700

Blocks = Iterable[Iterable[np.ndarray]]  # scores (n,), a few arrays at a time


class SortingCounter:
    """Scores of any float type, against the distinct values of `found` (n,), in any order."""

    def __init__(self, found: np.ndarray):
        self.thresholds = np.unique(found)

    def ranks(self, found: np.ndarray) -> np.ndarray:
        """The number of each one's threshold, from 0: (n,) int64."""
        return np.searchsorted(self.thresholds, found)

    def count(self, blocks: Blocks) -> np.ndarray:
        """The scores below, and up to and at, each of K thresholds: (2, K) int64."""
        counts = np.zeros((2, len(self.thresholds)), np.int64)
        for block in blocks:
            scores = np.concatenate(list(block))
            scores.sort()
            counts[0] += np.searchsorted(scores, self.thresholds, side="left")
            counts[1] += np.searchsorted(scores, self.thresholds, side="right")
        return counts


class CompiledCounter:
    """The same for float32, where `fits` allows it, and fewer than 2**32 scores."""

    def __init__(self, found: np.ndarray):
        bits = found.view(np.uint32)
        *fields, self.size = fill(bits, pages_of(bits))
        self.table = Table(*fields)

    @staticmethod
    def fits(found: np.ndarray) -> bool:
        """Whether the thresholds are float32, and not scattered over all magnitudes."""
        return found.dtype == np.float32 and pages_of(found.view(np.uint32)).sum() <= MAX_PAGES

    def ranks(self, found: np.ndarray) -> np.ndarray:
        """The number of each one's threshold, from 0: (n,) int64."""
        return ranks_of(found.view(np.uint32), *self.table)

    def count(self, blocks: Blocks) -> np.ndarray:
        """The scores below, and up to and at, each of K thresholds: (2, K) uint32."""
        counts = np.zeros(2 * self.size + 1, np.uint32)
        for block in blocks:
            for scores in block:
                add(scores.view(np.uint32), counts, *self.table)
        np.cumsum(counts, dtype=counts.dtype, out=counts)
        return counts[:-1].reshape(-1, 2).T


class Table(NamedTuple):
    """Where the thresholds are; P pages hold one, and page 0 of the words is empty."""

    start: np.ndarray  # (PAGES,) uint32: each page's first word
    below: np.ndarray  # (PAGES,) uint32: thresholds below each page
    words: np.ndarray  # ((1 + P) WORDS,) uint64: a bit for each key, set at the thresholds
    ranks: np.ndarray  # ((1 + P) WORDS,) uint16: thresholds of the page below each word


def compiled(function: Callable) -> Callable:
    """Compile on the first call; keep the machine code on disk where some folder allows it."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba may write neither to __pycache__ nor to a home
        return numba.njit(nogil=True)(function)


@compiled
def key_of(bits: int) -> int:
    """The bits of a float32 as an integer that grows with the number; -0.0 is 0.0."""
    sign = np.int32(bits) >> 31
    size = np.int32(bits & np.uint32(0x7FFFFFFF))
    return np.uint32((size ^ sign) - sign + 0x80000000)


@compiled
def ones(word: int) -> int:
    """How many bits of 64 are set; the compiler knows this form as one instruction."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    low = word & np.uint64(0x3333333333333333)
    word = low + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def pages_of(bits: np.ndarray) -> np.ndarray:
    """Which pages hold a score: (PAGES,) bool from the bits (n,) uint32 of float32 scores."""
    used = np.zeros(PAGES, np.bool_)
    for one in bits:
        used[key_of(one) >> 14] = True
    return used


@compiled
def fill(bits: np.ndarray, used: np.ndarray) -> tuple:
    """The fields of a `Table`, and K, from thresholds as bits (n,) in any order and their pages."""
    start, below = np.zeros(PAGES, np.uint32), np.zeros(PAGES, np.uint32)
    size = WORDS
    for page in range(PAGES):
        if used[page]:
            start[page] = size
            size += WORDS
    words, ranks = np.zeros(size, np.uint64), np.zeros(size, np.uint16)
    for one in bits:
        key = key_of(one)
        words[start[key >> 14] + ((key >> 6) & (WORDS - 1))] |= np.uint64(1) << np.uint64(key & 63)
    rank = 0
    for page in range(PAGES):
        below[page] = rank
        if used[page]:
            for at in range(start[page], start[page] + WORDS):
                ranks[at] = rank - below[page]
                rank += ones(words[at])
    return start, below, words, ranks, rank


@compiled
def place_of(bits: int, start, below, words, ranks) -> int:
    """2 r + 1 for the score that is threshold r, 2 r for others with r thresholds below."""
    key = key_of(bits)
    page = key >> np.uint32(14)
    at = start[page] + ((key >> np.uint32(6)) & np.uint32(WORDS - 1))
    word, bit = words[at], np.uint64(key & np.uint32(63))
    inside = ones(word & ((np.uint64(1) << bit) - np.uint64(1)))
    rank = np.uint64(below[page]) + np.uint64(ranks[at]) + inside
    return np.uint64(2) * rank + ((word >> bit) & np.uint64(1))


@compiled
def add(bits: np.ndarray, counts: np.ndarray, start, below, words, ranks) -> None:
    """Count scores as bits (n,) at their places in `counts` (2 K + 1,) uint32."""
    for one in bits:
        counts[place_of(one, start, below, words, ranks)] += np.uint32(1)


@compiled
def ranks_of(bits: np.ndarray, start, below, words, ranks) -> np.ndarray:
    """How many thresholds are below each score, as bits (n,): (n,) int64."""
    found = np.empty(len(bits), np.int64)
    for number, one in enumerate(bits):
        found[number] = place_of(one, start, below, words, ranks) >> np.uint64(1)
    return found

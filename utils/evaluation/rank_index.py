"""Count the scores below, and up to, each of many thresholds, without sorting the scores.

A rank/select bit vector (Jacobson, 1989) over B equal buckets between the lowest and the highest
threshold: one bit per bucket, set if it contains a threshold. Each 64-bit word comes with the
number of set bits before it, and a popcount adds those in the word. A score in an empty bucket, as
most are, needs no more: it is counted for the gap between two buckets with thresholds. Otherwise it
is compared with the one or few thresholds of its bucket. For maps of 240 x 240 pixels, all of this
nearly fits into the L2 cache, whatever the range of the scores.

Four thresholds, two of which share bucket 31 of 64:

>>> index = build_index(np.array([0.0, 0.5, 0.505, 1.0], np.float32))
>>> [hex(word) for word in index.words], index.starts.tolist()
(['0x8000000080000001'], [0, 1, 3, 4])

The scores below each threshold, and up to it:

>>> scores = np.array([-1, 0, 0.5, 0.503, 0.7, 1, 2], np.float32)
>>> CompiledCounter(index).count([scores]).tolist()
[[1, 2, 4, 5], [2, 3, 4, 6]]
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numba
import numpy as np

BUCKETS_PER_THRESHOLD = 8  # at least; few thresholds share a bucket, and the words stay in cache
MAX_BUCKETS = 1 << 24  # float32 represents each number exactly
MAX_SHARING = 64  # thresholds in one bucket, which are searched one by one


class RankIndex(NamedTuple):
    """A bit vector of B buckets, N of which contain some of K thresholds."""

    low: np.float32  # the lowest threshold
    scale: np.float32  # bucket = (score - low) * scale, rounded down and clipped to 0..B - 1
    words: np.ndarray  # (B / 64,) uint64: a bit for each bucket, set if it contains a threshold
    word_ranks: np.ndarray  # (B / 64,) uint32: set bits before each word
    starts: np.ndarray  # (N + 1,) uint32: thresholds before each such bucket, then K
    thresholds: np.ndarray  # (K + 1,) float32: distinct and ascending, then infinity


def build_index(thresholds: np.ndarray) -> RankIndex | None:
    """Build the index of K >= 1 thresholds, distinct and ascending.

    Return None where it is not the way to count: for other types than float32, for values that
    are not finite, and where more than MAX_SHARING thresholds share a bucket.
    """
    if thresholds.dtype != np.float32:
        return None
    low, high = thresholds[0], thresholds[-1]
    buckets = 1 << int(BUCKETS_PER_THRESHOLD * len(thresholds)).bit_length()
    buckets = min(max(buckets, 64), MAX_BUCKETS)
    with np.errstate(over="ignore", invalid="ignore"):
        scale = np.float32((buckets - 1) / (float(high) - float(low) or 1.0))
        if not (np.isfinite(high - low) and 0 < scale < np.inf):
            return None
    positions = np.minimum((thresholds - low) * scale, np.float32(buckets - 1)).astype(np.int64)
    starts = np.flatnonzero(np.diff(positions, prepend=-1))
    if np.diff(starts, append=len(thresholds)).max() > MAX_SHARING:
        return None
    used = np.zeros(buckets, np.uint8)
    used[positions] = 1
    words = np.packbits(used, bitorder="little").view("<u8").astype(np.uint64)
    per_word = np.bincount(positions[starts] // 64, minlength=len(words))
    word_ranks = (np.cumsum(per_word) - per_word).astype(np.uint32)
    starts = np.append(starts, len(thresholds)).astype(np.uint32)
    padded = np.append(thresholds, np.float32(np.inf))
    return RankIndex(low, scale, words, word_ranks, starts, padded)


class CompiledCounter:
    """Count fewer than 2**32 float32 scores, in parallel threads: its loops release the GIL."""

    def __init__(self, index: RankIndex):
        self.index = index

    def ranks(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the index of each given threshold, as `ScoreCounter` does."""
        return find_ranks(thresholds, self.index)

    def count(self, arrays: Iterable[np.ndarray]) -> np.ndarray:
        """Count scores, as `ScoreCounter` does."""
        size = len(self.index.thresholds) - 1
        gaps = np.zeros(len(self.index.starts), np.uint32)  # in the empty buckets before a full one
        counts = np.zeros(2 * size + 2, np.uint32)  # below threshold r at 2r, equal to it at 2r + 1
        for scores in arrays:
            count_slots(scores, self.index, gaps, counts)
        counts[2 * self.index.starts.astype(np.int64)] += gaps
        np.cumsum(counts, dtype=counts.dtype, out=counts)  # now < threshold r at 2r, <= at 2r + 1
        return counts[: 2 * size].reshape(-1, 2).T


def compiled(function: Callable) -> Callable:
    """Compile on the first call; cache the machine code on disk if a folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither __pycache__ nor the home folder can be written
        return numba.njit(nogil=True)(function)


@compiled
def popcount(word: int) -> int:
    """Count the set bits of a uint64; LLVM turns this form into one instruction."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    low = word & np.uint64(0x3333333333333333)
    word = low + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def find_bucket(score: float, index: RankIndex) -> tuple[int, bool]:
    """Return the number of non-empty buckets below that of a score, and if its own is non-empty."""
    position = (score - index.low) * index.scale
    position = max(np.float32(0), min(position, np.float32(64 * len(index.words) - 1)))
    bucket = np.uint32(np.int32(position))
    word, bit = index.words[bucket >> np.uint32(6)], np.uint64(bucket & np.uint32(63))
    before = popcount(word & ((np.uint64(1) << bit) - np.uint64(1)))
    rank = np.uint64(index.word_ranks[bucket >> np.uint32(6)]) + before
    return rank, (word >> bit) & np.uint64(1) > np.uint64(0)


@compiled
def find_rank(score: float, bucket: int, index: RankIndex) -> int:
    """Return the number of thresholds below a score in the non-empty bucket number `bucket`."""
    rank = np.uint64(index.starts[bucket])
    while index.thresholds[rank] < score:
        rank += np.uint64(1)
    return rank


@compiled
def count_slots(scores: np.ndarray, index: RankIndex, gaps: np.ndarray, counts: np.ndarray) -> None:
    """Add scores (n,) float32 to the counts of `CompiledCounter.count`."""
    for score in scores:
        bucket, occupied = find_bucket(score, index)
        if occupied:
            rank = find_rank(score, bucket, index)
            equal = np.uint64(index.thresholds[rank] == score)
            counts[np.uint64(2) * rank + equal] += np.uint32(1)
        else:
            gaps[bucket] += np.uint32(1)


@compiled
def find_ranks(scores: np.ndarray, index: RankIndex) -> np.ndarray:
    """Return how many thresholds are below each score that is a threshold: (n,) int64."""
    ranks = np.empty(len(scores), np.int64)
    for position, score in enumerate(scores):
        ranks[position] = find_rank(score, find_bucket(score, index)[0], index)
    return ranks

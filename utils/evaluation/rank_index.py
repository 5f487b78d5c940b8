"""Count the scores below, and up to, each of many thresholds, without sorting the scores.

`CompiledCounter` is a rank/select bit vector (Jacobson, 1989). The bits of a float32 become an
integer key of the same order, as in radix sort, and one bit per key is set at the thresholds. Each
64-bit word comes with the number of thresholds before it, and a popcount adds those in the word. A
two-level page table has words only for those pages of 16,384 keys that contain a threshold.

Keys of -1.0, -0.0, 0.0, 0.5 and 1.0:

>>> scores = np.array([-1.0, -0.0, 0.0, 0.5, 1.0], np.float32)
>>> [hex(sortable_key(bits)) for bits in scores.view(np.uint32)]
['0x40800000', '0x80000000', '0x80000000', '0xbf000000', '0xbf800000']

Thresholds 1.0 and the 2nd and 64th float32 above it are bits 0 and 2 of a word and bit 0 of the
next. A score equal to threshold r has slot 2r + 1; others have the even slots between.

>>> bits = np.array([0, 1, 2, 3, 64, 65], np.uint32) + np.uint32(0x3F800000)
>>> index = build_index(bits[[0, 2, 4]])
>>> [bin(word) for word in index.words[WORDS : WORDS + 2]], index.word_ranks[WORDS : WORDS + 2]
(['0b101', '0b1'], array([0, 2], dtype=uint16))
>>> [slot_of(score, index) for score in bits]
[1, 2, 3, 4, 5, 6]
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numba
import numpy as np

PAGES = 1 << 18  # of 2**14 keys each, which share their upper 18 bits
WORDS = 1 << 8  # of 64 keys each, in a page
MAX_PAGES = 1 << 14  # with thresholds, 2.5 KiB each: 3 million scores in [0, 1] fill 6,700
CACHED_PAGES = 1 << 10  # 2.5 MiB; beyond that, most words are read from outside the L2 cache
BLOCK = 256  # scores whose slots are found before they are counted
THRESHOLDS_PER_PAGE = 64  # of more than CACHED_PAGES; with fewer, sorting the scores is faster


class CompiledCounter:
    """Count fewer than 2**32 float32 scores, in parallel threads: its loops release the GIL."""

    def __init__(self, thresholds: np.ndarray):
        self.index = build_index(thresholds.view(np.uint32))

    @staticmethod
    def supports(thresholds: np.ndarray) -> bool:
        """Return True for float32 thresholds that lie in few pages, or densely in them."""
        if thresholds.dtype != np.float32:
            return False
        dense = max(CACHED_PAGES, len(thresholds) // THRESHOLDS_PER_PAGE)
        return bool(used_pages(thresholds.view(np.uint32)).sum() <= min(dense, MAX_PAGES))

    def ranks(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the index of each given threshold, like `SortingCounter`."""
        return ranks_of(thresholds.view(np.uint32), self.index)

    def count(self, arrays: Iterable[np.ndarray]) -> np.ndarray:
        """Count scores, like `SortingCounter`."""
        counts = np.zeros(2 * self.index.size + 1, np.uint32)
        for scores in arrays:
            count_slots(scores.view(np.uint32), self.index, counts)
        np.cumsum(counts, dtype=counts.dtype, out=counts)  # now < threshold r at 2r, <= at 2r + 1
        return counts[:-1].reshape(-1, 2).T


class RankIndex(NamedTuple):
    """A paged bit vector of K thresholds; P pages contain one, and page 0 of the words is empty."""

    page_start: np.ndarray  # (PAGES,) uint32: first word of each page; 0 without thresholds
    page_ranks: np.ndarray  # (PAGES,) uint32: thresholds below each page
    words: np.ndarray  # ((1 + P) WORDS,) uint64: a bit for each key, set at the thresholds
    word_ranks: np.ndarray  # ((1 + P) WORDS,) uint16: thresholds of the page below each word
    size: int  # K


def compiled(function: Callable) -> Callable:
    """Compile on the first call; cache the machine code on disk if a folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither __pycache__ nor the home folder can be written
        return numba.njit(nogil=True)(function)


@compiled
def sortable_key(bits: int) -> int:
    """Map the bits of a float32 to a uint32 that sorts like the float; -0.0 equals 0.0."""
    sign = np.int32(bits) >> 31
    magnitude = np.int32(bits & np.uint32(0x7FFFFFFF))
    return np.uint32((magnitude ^ sign) - sign + 0x80000000)


@compiled
def popcount(word: int) -> int:
    """Count the set bits of a uint64; LLVM turns this form into one instruction."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    low = word & np.uint64(0x3333333333333333)
    word = low + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def used_pages(bits: np.ndarray) -> np.ndarray:
    """Mark the pages that contain a score: (PAGES,) bool from float32 bits (n,) uint32."""
    used = np.zeros(PAGES, np.bool_)
    for score in bits:
        used[sortable_key(score) >> 14] = True
    return used


@compiled
def build_index(bits: np.ndarray) -> RankIndex:
    """Build the index of thresholds, given as float32 bits (n,) uint32 in any order."""
    used = used_pages(bits)
    page_start = (np.cumsum(used) * used * WORDS).astype(np.uint32)
    size = (1 + used.sum()) * WORDS
    words, word_ranks = np.zeros(size, np.uint64), np.zeros(size, np.uint16)
    page_ranks = np.zeros(PAGES, np.uint32)
    for score in bits:
        key = sortable_key(score)
        word = page_start[key >> 14] + ((key >> 6) & (WORDS - 1))
        words[word] |= np.uint64(1) << np.uint64(key & 63)
    rank = 0
    for page in range(PAGES):
        page_ranks[page] = rank
        if used[page]:
            for word in range(page_start[page], page_start[page] + WORDS):
                word_ranks[word] = rank - page_ranks[page]
                rank += popcount(words[word])
    return RankIndex(page_start, page_ranks, words, word_ranks, rank)


@compiled
def slot_of(bits: int, index: RankIndex) -> int:
    """Return 2r + 1 for the score that is threshold r, else 2r with r thresholds below it."""
    key = sortable_key(bits)
    page = key >> np.uint32(14)
    word = index.page_start[page] + ((key >> np.uint32(6)) & np.uint32(WORDS - 1))
    flags, bit = index.words[word], np.uint64(key & np.uint32(63))
    rank_in_word = popcount(flags & ((np.uint64(1) << bit) - np.uint64(1)))
    rank = np.uint64(index.page_ranks[page]) + np.uint64(index.word_ranks[word]) + rank_in_word
    return np.uint64(2) * rank + ((flags >> bit) & np.uint64(1))


@compiled
def count_slots(bits: np.ndarray, index: RankIndex, counts: np.ndarray) -> None:
    """Add scores, as float32 bits (n,) uint32, to the counts of their slots (2K + 1,) uint32.

    The slots of a block are found before they are counted, so that no search waits for a count
    that is not in the cache.
    """
    slots = np.empty(BLOCK, np.uint32)
    for start in range(0, len(bits), BLOCK):
        block = bits[start : start + BLOCK]
        for position, score in enumerate(block):
            slots[position] = slot_of(score, index)
        for slot in slots[: len(block)]:
            counts[slot] += np.uint32(1)


@compiled
def ranks_of(bits: np.ndarray, index: RankIndex) -> np.ndarray:
    """Return how many thresholds are below each score (n,), given as float32 bits: (n,) int64."""
    ranks = np.empty(len(bits), np.int64)
    for position, score in enumerate(bits):
        ranks[position] = slot_of(score, index) >> np.uint64(1)
    return ranks

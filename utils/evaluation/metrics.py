"""The seven metrics, exact: image and pixel AUROC, AUPR and F1-max, and AUPRO.

All depend on the ranking of scores alone, ties included, and all come from the same few numbers:
for every distinct score of an anomalous pixel (a threshold), how many normal scores are above it
and equal to it. Normal scores are counted block by block, so a category's maps need not be in
memory together.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from utils.errors import InputError
from utils.evaluation.rank_index import CompiledCounter, SortingCounter

IMAGE_METRICS = ("image_auroc", "image_aupr", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_aupr", "pixel_f1_max", "pixel_aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS
FPR_LIMIT = 0.3  # AUPRO is integrated to this false positive rate, and divided by it
BLOCK = 1 << 23  # scores sorted at a time: enough to share the search among thresholds
THREADS = min(4, os.cpu_count() or 1)  # each keeps its own counts, 16 bytes a threshold


class ScoreCounts(NamedTuple):
    """K distinct anomalous scores in ascending order, against N normal scores."""

    positives: np.ndarray  # (K,) int64: anomalous scores equal to each threshold
    above: np.ndarray  # (K,) int64: normal scores above it
    equal: np.ndarray  # (K,) int64: normal scores equal to it
    weights: np.ndarray  # (K,) float64: 1 / area of its region, summed over its anomalous pixels
    normals: int  # N


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AUROC, AUPR and F1-max of image scores (N,) and labels (N,), 0 good and 1 anomalous.

    Values in [0, 1], NaN where there are no good or no anomalous images. NaN scores and other
    shapes are an `InputError`.
    """
    values = ranking_metrics(count_image_scores(scores, labels))
    return dict(zip(IMAGE_METRICS, values, strict=True))


def count_image_scores(scores: np.ndarray, labels: np.ndarray) -> ScoreCounts:
    """The counts behind the image metrics; arguments and errors as in `image_metrics`."""
    scores, anomalous = np.asarray(scores), np.asarray(labels) > 0
    if scores.ndim != 1 or scores.shape != anomalous.shape:
        raise InputError(f"scores {scores.shape} and labels {anomalous.shape}: give two of (N,)")
    if np.isnan(scores.astype(float)).any():
        place = int(np.isnan(scores.astype(float)).argmax())
        raise InputError(f"image {place} has a NaN score; a score must be a number")
    return PixelEvaluator(anomalous[None, None]).count_scores(scores[None, None])


def pixel_metrics(scores: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """AUROC, AUPR, F1-max and AUPRO of maps (N, H, W) and masks (N, H, W), > 0 anomalous.

    See `PixelEvaluator`; values in [0, 1], NaN where undefined.
    """
    return PixelEvaluator(masks)(scores)


class PixelEvaluator:
    """The masks of a category, ready to be compared with the maps of one run after another.

    `masks` is (N, H, W) or a sequence of N (H_i, W_i); values above 0 are anomalous. NumPy counts
    where `compiled` is false, and scores that the compiled counter is not for, such as float64.
    """

    def __init__(self, masks: Sequence[np.ndarray], compiled: bool = True):
        self.compiled = compiled
        self.masks = [np.ascontiguousarray(mask) for mask in masks]
        self.masks = [mask if mask.dtype == bool else mask > 0 for mask in self.masks]
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(regions_of, self.masks))
        self.places = [places for places, _, _ in found]
        self.shares = np.concatenate([np.zeros(0), *(shares for _, shares, _ in found)])
        self.regions = sum(count for _, _, count in found)
        self.anomalous = sum(map(len, self.places))
        self.normals = sum(mask.size for mask in self.masks) - self.anomalous
        self.blocks = blocks_of([mask.size for mask in self.masks])

    def __call__(self, scores: Sequence[np.ndarray]) -> dict[str, float]:
        """The four pixel metrics of maps (N, H, W), or a sequence of N (H_i, W_i).

        A sequence that makes its maps when they are read is read twice, a few maps at a time. NaN
        scores, and shapes other than the masks', are an `InputError`.
        """
        return self.metrics(self.count_scores(scores))

    def metrics(self, ranking: ScoreCounts) -> dict[str, float]:
        """The four pixel metrics from the counts of one run's maps."""
        values = (*ranking_metrics(ranking), aupro(ranking, self.regions))
        return dict(zip(PIXEL_METRICS, values, strict=True))

    def count_scores(self, scores: Sequence[np.ndarray]) -> ScoreCounts:
        """Read all maps and count."""
        if len(scores) != len(self.masks):
            raise InputError(f"{len(scores)} maps for {len(self.masks)} masks; give one of each")
        with ThreadPoolExecutor(THREADS) as pool:
            numbers = range(len(self.masks))
            parts = list(pool.map(lambda i: self._read(scores, i)[self.places[i]], numbers))
            if not self.anomalous or not self.normals:
                nothing = np.zeros(0, np.int64)
                return ScoreCounts(nothing, nothing, nothing, np.zeros(0), self.normals)
            found = np.concatenate(parts)
            counter = self._counter(found)
            positives, weights = self._tally(counter.ranks(found))
            del parts, found  # as large as the counts
            shares = [self.blocks[start::THREADS] for start in range(THREADS)]
            counts = pool.map(lambda blocks: counter.count(self._read_all(scores, blocks)), shares)
            below, up_to = sum(counts)
        # Anomalous scores were counted too: fewer steps than to leave them out.
        above = self.normals - (up_to - np.cumsum(positives))
        return ScoreCounts(positives, above, up_to - below - positives, weights, self.normals)

    def _counter(self, found: np.ndarray) -> CompiledCounter | SortingCounter:
        """What counts scores against those found at anomalous pixels."""
        few = self.normals + self.anomalous < 2**32
        fits = self.compiled and few and CompiledCounter.fits(found)
        return CompiledCounter(found) if fits else SortingCounter(found)

    def _tally(self, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The anomalous pixels and their weights at each threshold, from each one's: (K,) both."""
        return np.bincount(own), np.bincount(own, self.shares)

    def _read(self, scores: Sequence[np.ndarray], index: int, again: bool = False) -> np.ndarray:
        """One map as floats (n,), looked through for NaN unless it is read `again`."""
        one = np.asarray(scores[index])
        if one.shape != self.masks[index].shape:
            raise InputError(
                f"map {index} is {one.shape}, its mask {self.masks[index].shape}; give both the "
                "same shape"
            )
        small = np.can_cast(one.dtype, np.float32)
        floats = np.ascontiguousarray(one, np.float32 if small else np.float64).reshape(-1)
        if not again and len(floats) and np.isnan(floats.min()):
            raise InputError(f"map {index} has NaN scores; a score must be a number")
        return floats

    def _read_all(
        self, scores: Sequence[np.ndarray], blocks: list[list[int]]
    ) -> Iterator[Iterator[np.ndarray]]:
        """The maps of some blocks once more, each read when it is asked for."""
        return ((self._read(scores, i, again=True) for i in block) for block in blocks)


def blocks_of(sizes: Sequence[int]) -> list[list[int]]:
    """The numbers of consecutive maps, in blocks of up to BLOCK pixels (or one map)."""
    blocks: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not blocks or size > room:
            blocks.append([])
            room = BLOCK
        blocks[-1].append(index)
        room -= size
    return blocks


def regions_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The anomalous pixels of a mask (H, W) bool, by its 8-connected regions.

    Returns their flat places, 1 / area of the region of each, and the number of regions.
    """
    places = np.flatnonzero(mask)
    if not len(places):
        return places, np.zeros(0), 0
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    own = labels.reshape(-1)[places]
    return places, (1 / np.maximum(1, np.bincount(own, minlength=count)))[own], count - 1


def ranking_metrics(ranking: ScoreCounts) -> tuple[float, float, float]:
    """AUROC (a tie counts half), AUPR (average precision) and F1-max; NaN without both kinds."""
    total = int(ranking.positives.sum())
    if not total or not ranking.normals:
        return (float("nan"),) * 3
    below = ranking.normals - ranking.above - ranking.equal
    wins = (ranking.positives * (below + ranking.equal / 2)).sum()
    found = np.cumsum(ranking.positives[::-1])[::-1]  # true positives at score >= threshold
    called = found + ranking.above + ranking.equal  # all positives there
    precision = found / called
    return (
        float(wins / total / ranking.normals),
        float((ranking.positives * precision).sum() / total),
        float((2 * found / (called + total)).max()),
    )


def aupro(ranking: ScoreCounts, regions: int) -> float:
    """The area under the per-region overlap up to FPR_LIMIT, divided by it; NaN without regions.

    Between two thresholds the curve is a straight line. At a threshold the false positive rate
    goes from a = above / N to b = (above + equal) / N, and the overlap rises by the threshold's
    share w of all weights. Up to the limit L it covers w (L - (a + b) / 2) where b <= L, and
    w (L - a)^2 / (2 (b - a)) where a < L < b: exact for any ties.
    """
    if not regions or not ranking.normals:
        return float("nan")
    a = ranking.above / ranking.normals
    b = (ranking.above + ranking.equal) / ranking.normals
    whole = FPR_LIMIT - (a + b) / 2
    rise = np.where(b > a, b - a, 1)
    part = np.maximum(0, FPR_LIMIT - a) ** 2 / (2 * rise)
    covered = (ranking.weights * np.where(b <= FPR_LIMIT, whole, part)).sum()
    # The shares add up to 1, but for rounding.
    return min(1.0, float(covered / ranking.weights.sum() / FPR_LIMIT))

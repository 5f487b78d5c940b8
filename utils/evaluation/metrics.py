"""Compute the seven metrics (image and pixel AUROC, AUPR and F1-max; AUPRO) and three more.

Image metrics come from scikit-learn's curves. Pixel metrics are exact without holding a category's
maps in memory: every distinct score of an anomalous pixel is a threshold, and for each threshold
only the numbers of normal pixels above and equal to it are needed. These are summed map by map.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from utils.errors import InputError
from utils.evaluation.counters import score_counter

IMAGE_METRICS = ("image_auroc", "image_aupr", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_aupr", "pixel_f1_max", "pixel_aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS
EXTRA_METRICS = ("pixel_aupro_005", "pixel_iou_max", "mean_of_seven")
FPR_LIMIT = 0.3  # AUPRO is integrated to this false positive rate, and divided by it
LOW_FPR_LIMIT = 0.05  # of `pixel_aupro_005`, MVTec AD 2's (arXiv 2503.21622)
F1_TOLERANCE = 1e-12  # above rounding, below the gap between distinct F1 of 10^5 images
THREADS = min(4, os.cpu_count() or 1)  # each has its own counts: 16 bytes per threshold
COMPILED_PIXELS = 1 << 21  # from here, compiled code saves in 16 runs what loading it takes
STORED_PIXELS = 1 << 24  # maps of 64 MiB in all are read once; larger ones would fill the memory


class ScoreCounts(NamedTuple):
    """Counts at K thresholds, the distinct scores of anomalous pixels in ascending order.

    K is 0 where there are no anomalous or no normal pixels.
    """

    positives: np.ndarray  # (K,) int64: anomalous pixels with this score
    above: np.ndarray  # (K,) int64: normal pixels with a higher score
    equal: np.ndarray  # (K,) int64: normal pixels with this score
    weights: np.ndarray  # (K,) float64: sum of 1 / area of its region over the anomalous pixels
    normals: int  # all normal pixels


def metric_order(name: str) -> tuple:
    """Return the sort key of a metric: by evaluation size, then in the order of METRICS.

    "@" and a size follow the names of metrics at a further evaluation size.

    >>> sorted(["pixel_auroc@source", "pixel_aupro", "pixel_auroc@400"], key=metric_order)
    ['pixel_aupro', 'pixel_auroc@400', 'pixel_auroc@source']
    """
    metric, _, size = name.partition("@")
    pixels = float("inf") if size == "source" else int(size or 0)
    return pixels, (METRICS + EXTRA_METRICS).index(metric)


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return AUROC, AUPR and F1-max in [0, 1] of image scores (N,) and labels (N,).

    Labels are 1 for anomalous, 0 for good and negative for unknown; images of unknown labels are
    left out. All are NaN unless there are good and anomalous images. Raise `InputError` for scores
    that are not finite and for other shapes.
    """
    scores, labels = check_images(scores, labels)
    if labels.all() or not labels.any():
        return dict.fromkeys(IMAGE_METRICS, float("nan"))
    false_positive_rate, recall, _ = roc_curve(labels, scores)
    auroc = auc(false_positive_rate, recall)
    precision, recall, _ = precision_recall_curve(labels, scores)
    aupr = -np.sum(np.diff(recall) * precision[:-1])  # average precision
    values = auroc, aupr, f1_of(precision, recall).max()
    return dict(zip(IMAGE_METRICS, map(float, values), strict=True))


def f1_max_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the threshold with the highest F1, the lowest where several have it.

    An image counts as anomalous if its score is at or above the threshold.
    Arguments, NaN and errors are those of `image_metrics`.
    """
    scores, labels = check_images(scores, labels)
    if labels.all() or not labels.any():
        return float("nan")
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = f1_of(precision, recall)
    return float(thresholds[f1 >= f1.max() - F1_TOLERANCE][0])


def f1_of(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Return F1 (K,) at each of K thresholds from a precision-recall curve (K + 1,) of each."""
    total = np.maximum(precision + recall, np.finfo(np.float64).tiny)  # 0 without true positives
    return (2 * precision * recall / total)[:-1]  # the last point has no threshold


def check_images(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of labelled images as float64 and their labels as bool.

    Raise like `image_metrics`.
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise InputError(f"scores {scores.shape} and labels {labels.shape}: expected (N,) for both")
    if not np.isfinite(scores).all():
        index = int(np.isfinite(scores).argmin())
        raise InputError(f"image {index} has the score {scores[index]}: expected a finite number")
    known = labels >= 0
    return scores[known], labels[known] > 0


def pixel_metrics(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the four pixel metrics of anomaly maps (N, H, W) and masks; see `PixelEvaluator`."""
    evaluator = PixelEvaluator(masks)
    return evaluator.metrics(evaluator.count_scores(maps))


class PixelEvaluator:
    """Evaluate the anomaly maps of any number of runs against the masks of one category.

    `masks` is (N, H, W) or a sequence of N (H_i, W_i); values above 0 are anomalous. `compiled` is
    that of `score_counter`; by default, it is True for COMPILED_PIXELS or more.
    """

    def __init__(self, masks: Sequence[np.ndarray], compiled: bool | None = None):
        masks = [np.ascontiguousarray(mask) for mask in masks]
        self.masks = [mask if mask.dtype == bool else mask > 0 for mask in masks]
        with ThreadPoolExecutor(THREADS) as pool:
            regions = list(pool.map(region_weights, self.masks))
        self.pixels = [pixels for pixels, _ in regions]
        self.weights = np.concatenate([np.zeros(0), *(weights for _, weights in regions)])
        self.size = sum(mask.size for mask in self.masks)
        large = COMPILED_PIXELS <= self.size < 2**32  # the counts are uint32
        self.compiled = large if compiled is None else compiled

    def count_scores(self, maps: Sequence[np.ndarray]) -> ScoreCounts:
        """Count the scores of one run's maps, (N, H, W) or a sequence of N (H_i, W_i).

        Maps may be computed lazily: they are read one at a time in each of THREADS threads, and
        twice if there are more than STORED_PIXELS. Raise `InputError` for NaN scores and for maps
        whose number or shape is not that of the masks.
        """
        if len(maps) != len(self.masks):
            raise InputError(f"{len(maps)} maps for {len(self.masks)} masks: give one for each")
        indices, normals = range(len(maps)), self.size - len(self.weights)
        with ThreadPoolExecutor(THREADS) as pool:
            read = partial(self._read, maps)
            if self.size <= STORED_PIXELS:
                read = list(pool.map(read, indices)).__getitem__
            scores = list(pool.map(partial(self._anomalous_scores, read), indices))
            if not len(self.weights) or not normals:
                zero = np.zeros(0, np.int64)
                return ScoreCounts(zero, zero, zero, np.zeros(0), normals)
            scores = np.concatenate(scores)
            counter = score_counter(scores, self.compiled)
            ranks = counter.ranks(scores)
            positives, weights = np.bincount(ranks), np.bincount(ranks, self.weights)
            del scores, ranks  # as large as the counts
            shares = [indices[first::THREADS] for first in range(THREADS)]
            below, up_to = sum(pool.map(counter.count, [map(read, share) for share in shares]))
        # Anomalous pixels were counted too: subtracting them is faster than leaving them out.
        above = normals - (up_to - np.cumsum(positives))
        return ScoreCounts(positives, above, up_to - below - positives, weights, normals)

    def metrics(self, counts: ScoreCounts) -> dict[str, float]:
        """Return AUROC, AUPR, F1-max and AUPRO in [0, 1]; NaN without pixels of both kinds."""
        undefined = not len(counts.positives)
        values = [np.nan] * 4 if undefined else [*auroc_aupr_f1_max(counts), aupro(counts)]
        return dict(zip(PIXEL_METRICS, values, strict=True))

    def _anomalous_scores(self, read: Callable[[int], np.ndarray], index: int) -> np.ndarray:
        """Return the scores of one map's anomalous pixels (n,)."""
        if len(self.weights) and not len(self.pixels[index]):
            return np.zeros(0, np.float32)  # the map is read when all pixels are counted
        return read(index)[self.pixels[index]]

    def _read(self, maps: Sequence[np.ndarray], index: int) -> np.ndarray:
        """Return one map as (H W,) float32, or float64 for types that float32 would round."""
        scores, shape = np.asarray(maps[index]), self.masks[index].shape
        if scores.shape != shape:
            raise InputError(f"map {index} is {scores.shape} and its mask {shape}: give one shape")
        dtype = np.float32 if np.can_cast(scores.dtype, np.float32) else np.float64
        scores = np.ascontiguousarray(scores, dtype).reshape(-1)
        if len(scores) and np.isnan(scores.min()):
            raise InputError(f"map {index} has NaN scores: expected numbers")
        return scores


def region_weights(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat indices of a mask's anomalous pixels, and 1 / area of each one's region.

    `mask` is (H, W) bool, contiguous; regions are 8-connected.
    """
    pixels = np.flatnonzero(mask)
    if not len(pixels):
        return pixels, np.zeros(0)
    _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    regions = labels.reshape(-1)[pixels]
    return pixels, 1 / np.bincount(regions)[regions]


def auroc_aupr_f1_max(counts: ScoreCounts) -> tuple[float, float, float]:
    """Return AUROC (a tie counts half), AUPR (average precision) and F1-max."""
    total = int(counts.positives.sum())
    below = counts.normals - counts.above - counts.equal
    wins = (counts.positives * (below + counts.equal / 2)).sum()
    true_positives = np.cumsum(counts.positives[::-1])[::-1]  # at scores >= threshold
    predicted = true_positives + counts.above + counts.equal
    precision = true_positives / predicted
    return (
        float(wins / total / counts.normals),
        float((counts.positives * precision).sum() / total),
        float((2 * true_positives / (predicted + total)).max()),
    )


def extra_metrics(values: Mapping[str, float], counts: ScoreCounts) -> dict[str, float]:
    """Return EXTRA_METRICS in [0, 1] from the METRICS and the score counts of one run.

    They are MVTec AD 2's AUPRO and two of ADer (github.com/zhangzjn/ADer): the maximal IoU, which
    is reached at the threshold of F1-max because IoU = F1 / (2 - F1), and mAD, the mean of the
    METRICS. Each is NaN if a metric that it is computed from is.
    """
    f1 = values["pixel_f1_max"]
    low = aupro(counts, LOW_FPR_LIMIT) if len(counts.positives) else float("nan")
    mean = float(np.mean([values[metric] for metric in METRICS]))
    return dict(zip(EXTRA_METRICS, (low, f1 / (2 - f1), mean), strict=True))


def aupro(counts: ScoreCounts, limit: float = FPR_LIMIT) -> float:
    """Return the area under the per-region overlap up to the FPR `limit`, divided by it.

    Between two thresholds the curve is a straight line. At a threshold the false positive rate
    goes from a = above / N to b = (above + equal) / N, and the overlap rises by the threshold's
    share w of all weights. Up to the limit L it covers w (L - (a + b) / 2) where b <= L, and
    w (L - a)^2 / (2 (b - a)) where a < L < b: exact for any ties.
    """
    a = counts.above / counts.normals
    b = (counts.above + counts.equal) / counts.normals
    within = limit - (a + b) / 2
    across = np.maximum(0, limit - a) ** 2 / (2 * np.where(b > a, b - a, 1))
    covered = (counts.weights * np.where(b <= limit, within, across)).sum()
    return min(1.0, float(covered / counts.weights.sum() / limit))  # 1 despite rounding

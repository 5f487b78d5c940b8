"""Compute the curves behind the metrics, as points to draw.

They come from `ScoreCounts`, so the area under each is exactly its metric; `subsample` then leaves
as many points as a small chart can show.
"""

import numpy as np

from utils.evaluation.metrics import FPR_LIMIT, PixelEvaluator, ScoreCounts, check_images

MAX_POINTS = 200  # of a drawn curve: more than a small chart has pixels for

Curve = np.ndarray  # (P, 2) float64: x and y of its corners, x ascending; P is 0 where undefined


def image_curves(scores: np.ndarray, labels: np.ndarray) -> dict[str, Curve]:
    """Return the ROC and the precision-recall curve of images, keyed by the metric of their area.

    Each has at most MAX_POINTS points. Arguments and errors are those of `image_metrics`.
    """
    scores, labels = check_images(scores, labels)
    # Counted as a 1 x N map, to share the code below; scikit-learn's ROC curve has other points.
    counts = PixelEvaluator(labels[None, None]).count_scores(scores[None, None])
    return {
        "image_auroc": subsample(cumulative_curve(counts, counts.positives)),
        "image_aupr": subsample(precision_recall_curve(counts)),
    }


def pixel_curves(counts: ScoreCounts) -> dict[str, Curve]:
    """Return the ROC, precision-recall and PRO curve of pixels, like `image_curves`."""
    return {
        "pixel_auroc": subsample(cumulative_curve(counts, counts.positives)),
        "pixel_aupr": subsample(precision_recall_curve(counts)),
        "pixel_aupro": subsample(pro_curve(counts)),
    }


def precision_recall_curve(counts: ScoreCounts) -> Curve:
    """Return precision over recall, as steps: the area under them is the average precision."""
    if not len(counts.positives):
        return np.empty((0, 2))
    true_positives = np.cumsum(counts.positives[::-1])
    recall = true_positives / true_positives[-1]
    precision = true_positives / (true_positives + (counts.above + counts.equal)[::-1])
    return np.column_stack([np.repeat(np.append(0, recall), 2)[1:-1], np.repeat(precision, 2)])


def pro_curve(counts: ScoreCounts) -> Curve:
    """Return the mean overlap of regions over the false positive rate, from 0 to FPR_LIMIT."""
    curve = cumulative_curve(counts, counts.weights)
    if not len(curve):
        return curve
    inside = int((curve[:, 0] <= FPR_LIMIT).sum())
    (x, y), (next_x, next_y) = curve[inside - 1], curve[inside]
    end = y + (next_y - y) * (FPR_LIMIT - x) / (next_x - x)
    return np.vstack([curve[:inside], (FPR_LIMIT, end)])


def cumulative_curve(counts: ScoreCounts, gains: np.ndarray) -> Curve:
    """Return the cumulative share of `gains` (K,) over the false positive rate, both 0 to 1.

    The gains are `positives` for a ROC curve and `weights` for a PRO curve. The curve is flat
    between two thresholds, and slopes at a threshold that normal scores equal.
    """
    if not len(gains):
        return np.empty((0, 2))
    share = np.cumsum(gains[::-1]) / gains.sum()
    x = np.column_stack([counts.above, counts.above + counts.equal])[::-1].ravel() / counts.normals
    y = np.repeat(np.append(0, share), 2)[1:-1]
    return np.vstack([(0, 0), np.column_stack([x, y]), (1, 1)])


def subsample(curve: Curve) -> Curve:
    """Return at most MAX_POINTS points, evenly spaced along the curve, with both ends."""
    if len(curve) <= MAX_POINTS:
        return curve
    length = np.append(0, np.abs(np.diff(curve, axis=0)).sum(axis=1).cumsum())
    points = np.searchsorted(length, np.linspace(0, length[-1], MAX_POINTS))
    return curve[np.unique(points)]

"""The curves behind the metrics, as points to draw, and the threshold that splits images best.

All come from a `ScoreCounts`, so they are exact and their areas are the metrics; `thin` then leaves
as many points as a small chart can show.
"""

import numpy as np

from utils.evaluation.metrics import FPR_LIMIT, ScoreCounts, count_image_scores

POINTS = 200  # kept of a curve, at most: more than a small chart has pixels to show

Curve = np.ndarray  # (P, 2) float64: x and y of its corners, x ascending; P = 0 where undefined


def curves_of(image: ScoreCounts, pixel: ScoreCounts) -> dict[str, Curve]:
    """The five curves of one run, thinned, by the name of the metric that is their area."""
    whole = {
        "image_auroc": roc(image),
        "image_aupr": precision_recall(image),
        "pixel_auroc": roc(pixel),
        "pixel_aupr": precision_recall(pixel),
        "pixel_aupro": region_overlap(pixel),
    }
    return {name: thin(curve) for name, curve in whole.items()}


def roc(ranking: ScoreCounts) -> Curve:
    """True positive rate over false positive rate, from (0, 0) to (1, 1)."""
    return rise(ranking, ranking.positives)


def region_overlap(ranking: ScoreCounts) -> Curve:
    """Mean overlap of regions over false positive rate, from 0 to FPR_LIMIT."""
    curve = rise(ranking, ranking.weights)
    if not len(curve):
        return curve
    inside = int((curve[:, 0] <= FPR_LIMIT).sum())
    (x, y), (next_x, next_y) = curve[inside - 1], curve[inside]
    end = y + (next_y - y) * (FPR_LIMIT - x) / (next_x - x)
    return np.vstack([curve[:inside], (FPR_LIMIT, end)])


def rise(ranking: ScoreCounts, gains: np.ndarray) -> Curve:
    """What has been gained, as a share, over the false positive rate, from the highest score down.

    Between two thresholds the curve is flat; at one it goes straight, so a tie is a slope.
    """
    if not len(gains) or not ranking.normals:
        return np.empty((0, 2))
    gained = np.cumsum(gains[::-1]) / gains.sum()
    start = ranking.above[::-1] / ranking.normals
    end = (ranking.above + ranking.equal)[::-1] / ranking.normals
    x = np.column_stack([start, end]).ravel()
    y = np.column_stack([[0, *gained[:-1]], gained]).ravel()
    return np.vstack([(0, 0), np.column_stack([x, y]), (1, 1)])


def precision_recall(ranking: ScoreCounts) -> Curve:
    """Precision over recall, as steps: their area is the average precision."""
    if not len(ranking.positives) or not ranking.normals:
        return np.empty((0, 2))
    found = np.cumsum(ranking.positives[::-1])
    recall = found / found[-1]
    precision = found / (found + (ranking.above + ranking.equal)[::-1])
    x = np.column_stack([[0, *recall[:-1]], recall]).ravel()
    return np.column_stack([x, np.repeat(precision, 2)])


def thin(curve: Curve, most: int = POINTS) -> Curve:
    """At most `most` points of a curve, evenly spaced along its length; its ends are kept."""
    if len(curve) <= most:
        return curve
    length = np.cumsum([0, *np.abs(np.diff(curve, axis=0)).sum(axis=1)])
    kept = np.searchsorted(length, np.linspace(0, length[-1], most))
    return curve[np.unique(kept)]


def f1_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The image score from which images are called anomalous for the highest F1; NaN if undefined.

    `scores` (N,), `labels` (N,) 0 or 1. Of several such thresholds, the lowest: it misses fewest.
    """
    ranking = count_image_scores(scores, labels)
    if not len(ranking.positives) or not ranking.normals:
        return float("nan")
    found = np.cumsum(ranking.positives[::-1])[::-1]
    called = found + ranking.above + ranking.equal
    best = (found / (called + found[0])).argmax()
    return float(np.unique(scores[labels > 0])[best])

"""Intervals of differences between results: the variance over images and seeds, and Student's t.

AUROC is a mean over pairs of a good and an anomalous image, so its variance over images has a
closed form (`pair_variance`). For AUPR and F1-max, it comes from resamples of half the images
without replacement, the same images for all results (the delete-half jackknife, Shao and Wu 1989;
the m-out-of-n bootstrap, Bickel, Götze and van Zwet 1997): drawn with replacement, repeated images
raise AUPR and F1-max and lower their variance. Good and anomalous images are halved separately, and
categories are independent. The variance between seeds is a component of its own, because five seeds
are too few to resample. The sum of all components has the degrees of freedom of Satterthwaite
(1946). `tools/interval_coverage.py` measures the coverage.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

CONFIDENCE = 0.95
RESAMPLES = 1000
MIN_FREEDOM = 3  # degrees of freedom; with 1, the limits are 12.7 standard errors away


class Interval(NamedTuple):
    """A confidence interval of a difference, and the p-value of no difference (two-sided)."""

    low: float
    high: float
    p: float


class Differences(NamedTuple):
    """Differences of image AUROC, AUPR and F1-max from the first result in one category.

    Their variance is the sum of K independent components.
    """

    means: np.ndarray  # (F - 1, 3): over seeds
    variances: np.ndarray  # (K, F - 1, 3)
    freedoms: list[int]  # (K,): degrees of freedom of the variances


def interval(difference: float, variances: np.ndarray, freedoms: Sequence[int]) -> Interval:
    """Return the interval of a difference whose variance is the sum of independent components.

    `variances` and `freedoms` (their degrees of freedom) are (K,). Without any variance, the
    interval of equal results is [0, 0] and p is 1. NaN: see `why_undefined`.
    """
    variance = variances.sum()
    if why_undefined(difference, variances, freedoms):
        return Interval(*[float("nan")] * 3)
    if variance == 0:
        return Interval(0.0, 0.0, 1.0)
    distribution = student_t(total_freedom(variances, freedoms))
    error, limit = variance**0.5, distribution.ppf((1 + CONFIDENCE) / 2)
    p = 2 * distribution.sf(abs(difference) / error)
    return Interval(float(difference - limit * error), float(difference + limit * error), float(p))


def why_undefined(difference: float, variances: np.ndarray, freedoms: Sequence[int]) -> str:
    """Say why a difference has no interval, given the arguments of `interval`; "" if it has one."""
    if variances.sum() == 0:
        return "the results differ, but neither images nor seeds vary" if difference else ""
    freedom = total_freedom(variances, freedoms)
    if freedom >= MIN_FREEDOM:
        return ""
    few = f"{freedom:.1f} degrees of freedom, and an interval needs {MIN_FREEDOM}"
    return f"too few images or seeds ({few})"


def total_freedom(variances: np.ndarray, freedoms: Sequence[int]) -> float:
    """Return the degrees of freedom of a sum of variances (Satterthwaite 1946)."""
    return float(variances.sum() ** 2 / (variances**2 / np.array(freedoms)).sum())


def compare_category(
    scores: np.ndarray, labels: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Differences:
    """Return the differences to the first of F results in one category, and their variances.

    `scores` is (F, S, N): of F results with S seeds each on the same N images; `labels` is (N,)
    bool, with at least two good and two anomalous images. The first variance is over images, with
    the degrees of freedom of the smaller group, the conservative choice for two groups; with more
    than one seed, a second is between seeds.

    A seed's difference varies with the images, with the seed, and with both together. The images
    drawn for the mean over seeds show the first and last; the sample variance between seeds shows
    the second and last, so the last, the variance over images of a seed's deviation from the mean
    over seeds, is subtracted once.
    """
    groups = scores[..., ~labels], scores[..., labels]
    counts = [draw_halves(rng, group.shape[-1], resamples) for group in groups]
    seeds = scores.shape[1]
    values = np.empty((len(scores), seeds, 3, resamples + 1), np.float32)
    for run in np.ndindex(len(scores), seeds):
        values[run] = resampled_metrics(*(group[run] for group in groups), *counts)
    differences = values[1:] - values[0]
    observed, resampled = differences[..., 0], differences[..., 1:]
    means = resampled.mean(axis=1)
    deviations = (resampled - means[:, None]).var(axis=-1, ddof=1)  # (F - 1, S, 3)
    of_images = means.var(axis=-1, ddof=1)
    first = pair_scores(*(group[0] for group in groups))
    for row, result in enumerate(zip(*(group[1:] for group in groups), strict=True)):
        pairs = pair_scores(*result) - first  # (S, Q, P)
        mean = pairs.mean(axis=0)
        of_images[row, 0] = np.maximum(*pair_variance(mean))
        deviations[row, :, 0], _ = pair_variance(pairs - mean)
    variances, freedoms = [of_images], [min(map(len, counts)) - 1]
    if seeds > 1:
        both = deviations.sum(axis=1) / (seeds - 1)
        variances.append(np.maximum(0, observed.var(axis=1, ddof=1) - both) / seeds)
        freedoms.append(seeds - 1)
    return Differences(observed.mean(axis=1), np.array(variances), freedoms)


def pair_scores(good: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Compare the scores of good and anomalous images (..., Q) and (..., P): (..., Q, P).

    1 where the anomalous image has the higher score, 1/2 for a tie, else 0; the mean is AUROC.
    """
    return (np.sign(anomalous[..., None, :] - good[..., :, None]) + 1) / 2


def pair_variance(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the variance over images of the mean of the values (..., Q, P) of pairs.

    Returns the estimate (...) and the term c / QP of it (...), a lower bound.

    A value is the sum of an effect of its row, of its column, and of both together, with variances
    a, b and c; that of the mean is a / Q + b / P + c / QP. Row means have the variance a + c / P,
    column means b + c / Q, so c / QP is subtracted once: the estimate is unbiased (two-way analysis
    of variance with random effects). In small categories it can be negative, but because a and b
    cannot, the variance is at least c / QP, which is positive where row and column means are equal
    but values are not. DeLong's (1988) counts c twice, and resamples of rows and columns three
    times (Owen 2007): too much for small categories.
    """
    count, other = pairs.shape[-2:]
    rows, columns = pairs.mean(axis=-1), pairs.mean(axis=-2)
    mean = rows.mean(axis=-1)[..., None, None]
    rest = pairs - rows[..., None] - columns[..., None, :] + mean
    together = (rest**2).sum(axis=(-2, -1)) / ((count - 1) * (other - 1) * count * other)
    variance = rows.var(axis=-1, ddof=1) / count + columns.var(axis=-1, ddof=1) / other
    return variance - together, together


def draw_halves(rng: np.random.Generator, size: int, resamples: int) -> np.ndarray:
    """Draw half of `size` images without replacement: (size, 1 + resamples), 1 if drawn, else 0.

    The first column has all images. Half of an odd number is rounded up or down, each with
    probability 1/2.
    """
    order = rng.permuted(np.tile(np.arange(size)[:, None], resamples), axis=0)
    halves = order < (size + rng.integers(2, size=resamples)) // 2
    return np.column_stack([np.ones(size), halves]).astype(np.float32)


def resampled_metrics(
    good: np.ndarray, anomalous: np.ndarray, good_counts: np.ndarray, anomalous_counts: np.ndarray
) -> np.ndarray:
    """Return AUROC, AUPR and F1-max (3, B) in [0, 1] of B resamples at once.

    `good` (Q,) and `anomalous` (P,) are scores; the counts (Q, B) and (P, B) say how often each
    image was drawn, at least one of each kind. Equal to scikit-learn's metrics with the counts as
    sample weights. The scores of anomalous images are the thresholds: between two of them, only
    false positives are added.
    """
    true_positives, _ = counts_above(anomalous, anomalous_counts, anomalous)  # (P, B)
    false_positives, above = counts_above(good, good_counts, anomalous)
    positives, negatives = anomalous_counts.sum(axis=0), good_counts.sum(axis=0)
    losses = (
        np.einsum("pb,pb->b", anomalous_counts, above + false_positives) / 2
    )  # a tie counts half
    predicted = true_positives + false_positives
    precision = true_positives / np.maximum(predicted, 1)
    aupr = np.einsum("pb,pb->b", anomalous_counts, precision) / positives
    f1 = 2 * (true_positives / (predicted + positives)).max(axis=0)
    return np.stack([1 - losses / (positives * negatives), aupr, f1])


def counts_above(
    scores: np.ndarray, counts: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the counts (N, B) of the scores at or above each threshold, and above it: (P, B) each."""
    order = scores.argsort()[::-1]
    total = np.zeros((len(scores) + 1, counts.shape[1]), counts.dtype)
    for row, image in enumerate(order):  # several times as fast as cumsum over the first axis
        np.add(total[row], counts[image], out=total[row + 1])
    descending = -scores[order]
    return tuple(total[descending.searchsorted(-thresholds, side)] for side in ("right", "left"))

"""Standard errors of differences between results: a paired bootstrap over images, and seeds.

Every resample draws the same good and anomalous images for all results, within a category;
categories are independent. It draws one image fewer than there are, which makes the variance of a
mean unbiased also for few images (McCarthy and Snowden 1985; Rao and Wu 1988). The variance between
seeds is added as a variance component, because five seeds are too few to resample. The interval is
the difference ± 1.96 standard errors: percentiles of resamples would be biased, because repeated
images raise F1-max and AUPR. `tools/interval_coverage.py` measures the coverage.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, norm

CONFIDENCE = 0.95
RESAMPLES = 1000


class Interval(NamedTuple):
    """A confidence interval of a difference, and the p-value of no difference (two-sided)."""

    low: float
    high: float
    p: float


def interval(difference: float, error: float) -> Interval:
    """Return the interval of a difference with a standard error.

    Without any variation between resamples, p is 1 for equal results and NaN for others.
    """
    if error == 0:
        return Interval(difference, difference, 1.0 if difference == 0 else float("nan"))
    low, high = norm.interval(CONFIDENCE, difference, error)
    return Interval(float(low), float(high), float(2 * norm.sf(abs(difference) / error)))


def standard_errors(
    scores: np.ndarray, labels: np.ndarray, rng: np.random.Generator, resamples: int = RESAMPLES
) -> np.ndarray:
    """Return the standard errors (F - 1, 3) of the differences to the first result in one category.

    `scores` is (F, S, N): of F results with S seeds each on the same N images; `labels` is (N,)
    bool. Columns are image AUROC, AUPR and F1-max, each the mean over seeds. There must be at least
    two good and two anomalous images. A single seed has no variance between seeds.

    A seed's difference varies with the images, with the seed, and with both together. The images
    drawn for the mean over seeds show the first and last; the sample variance between seeds shows
    the second and last, so the last, the variance of a seed's deviation from the mean over seeds
    between resamples, is subtracted once.
    """
    good, anomalous = scores[..., ~labels], scores[..., labels]
    seeds = scores.shape[1]

    def differences(good_counts, anomalous_counts):
        counts = good_counts, anomalous_counts
        values = np.empty((len(scores), seeds, 3, counts[0].shape[1]), np.float32)
        for run in np.ndindex(len(scores), seeds):
            values[run] = resampled_metrics(good[run], anomalous[run], *counts)
        return values[1:] - values[0]  # (F - 1, S, 3, B)

    def statistic(*draws, axis=-1):
        return differences(*(count_draws(indices[:, 1:]) for indices in draws))

    images = [np.arange(group.shape[-1]) for group in (good, anomalous)]
    options = dict(n_resamples=resamples, vectorized=True, method="percentile", rng=rng)
    resampled = bootstrap(images, statistic, **options).bootstrap_distribution
    means = resampled.mean(axis=1, keepdims=True)
    variance = means[:, 0].var(axis=-1, ddof=1)
    if seeds > 1:
        observed = differences(*(np.ones((len(group), 1)) for group in images))[..., 0]
        both = (resampled - means).var(axis=-1, ddof=1).sum(axis=1) / (seeds - 1)
        variance += np.maximum(0, observed.var(axis=1, ddof=1) - both) / seeds
    return variance**0.5


def count_draws(indices: np.ndarray) -> np.ndarray:
    """Count how often each of n images was drawn: (B, n - 1) indices to (n, B) float32 counts.

    >>> count_draws(np.array([[0, 2], [1, 1]]))
    array([[1., 0.],
           [0., 2.],
           [1., 0.]], dtype=float32)
    """
    resamples, size = len(indices), indices.shape[1] + 1
    flat = (indices * resamples + np.arange(resamples)[:, None]).ravel()
    counts = np.bincount(flat, minlength=size * resamples)
    return counts.reshape(size, resamples).astype(np.float32)


def resampled_metrics(
    good: np.ndarray, anomalous: np.ndarray, good_counts: np.ndarray, anomalous_counts: np.ndarray
) -> np.ndarray:
    """Return AUROC, AUPR and F1-max (3, B) in [0, 1] of B resamples at once.

    `good` (Q,) and `anomalous` (P,) are scores; the counts (Q, B) and (P, B) say how often each
    image was drawn, at least one of each kind. Equal to scikit-learn's metrics with the counts as
    sample weights. The scores of anomalous images are the thresholds: between two of them, only
    false positives are added.
    """
    thresholds, dtype = anomalous[:, None], good_counts.dtype
    true_positives = (anomalous >= thresholds).astype(dtype) @ anomalous_counts  # (P, B)
    above, up_to = (good > thresholds).astype(dtype), (good >= thresholds).astype(dtype)
    losses = ((above + up_to) / 2) @ good_counts  # a tie counts half
    up_to = up_to @ good_counts
    positives, negatives = anomalous_counts.sum(axis=0), good_counts.sum(axis=0)
    auroc = 1 - np.einsum("pb,pb->b", anomalous_counts, losses) / (positives * negatives)
    predicted = true_positives + up_to
    precision = true_positives / np.maximum(predicted, 1)
    aupr = np.einsum("pb,pb->b", anomalous_counts, precision) / positives
    f1 = (2 * true_positives / (predicted + positives)).max(axis=0)
    return np.stack([auroc, aupr, f1])

"""Simulate how often the intervals of tools/compare.py contain the true difference (95 % expected).

    python tools/interval_coverage.py

Two methods score as many images as the test set of each benchmark has. A score is the sum of the
image's own effect, which both methods share in part, of noise of each run, and for anomalous images
of a shift that depends on the method and the seed. The true difference is the mean over all trials.
The command prints a line per setting: the share of trials whose interval contains it.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a script: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from datasets.official import OFFICIAL, Counts
from utils.cli import parse_options, run_cli
from utils.compare.bootstrap import interval, resampled_metrics, standard_errors
from utils.evaluation.metrics import IMAGE_METRICS

SHIFTS = 1.6, 1.3  # of the anomalous images, for each method
SEED_DEVIATION = 0.3  # of these shifts between seeds; a single seed stands for 0 shots
SHARED = 0.7  # weight of the image's effect that both methods share, of 1
NOISE = 0.5  # deviation of each run's scores


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    trials: int = 1000
    """Independent experiments per setting."""
    resamples: int = 200
    """Bootstrap resamples per category."""
    seed: int = 0
    """Seed of the simulation."""


def draw_scores(
    rng: np.random.Generator, good: int, anomalous: int, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scores (2, S, N) of two methods in one category, and the labels (N,) bool."""
    labels = np.arange(good + anomalous) >= good
    shared, separate = rng.normal(size=len(labels)), rng.normal(size=(2, 1, len(labels)))
    images = SHARED * shared + (1 - SHARED**2) ** 0.5 * separate
    deviation = SEED_DEVIATION if seeds > 1 else 0.0
    shifts = np.reshape(SHIFTS, (2, 1)) + deviation * rng.normal(size=(2, seeds))
    noise = NOISE * rng.normal(size=(2, seeds, len(labels)))
    return images + shifts[..., None] * labels + noise, labels


def trial(
    rng: np.random.Generator, counts: Iterable[Counts], seeds: int, resamples: int
) -> np.ndarray:
    """Return the differences and their standard errors (2, 3) of one experiment, in each metric."""
    differences, variances = [], []
    for category in counts:
        scores, labels = draw_scores(rng, category.good, category.anomalous, seeds)
        once = [np.ones((count, 1)) for count in (category.good, category.anomalous)]
        values = [
            [resampled_metrics(run[~labels], run[labels], *once)[:, 0] for run in method]
            for method in scores
        ]  # (2, S, 3)
        differences.append(np.subtract(*np.mean(values, axis=1)[::-1]))
        variances.append(standard_errors(scores, labels, rng, resamples)[0] ** 2)
    error = np.sum(variances, axis=0) ** 0.5 / len(variances)
    return np.array([np.mean(differences, axis=0), error])


def coverage(trials: np.ndarray) -> np.ndarray:
    """Return the share (3,) of trials (T, 2, 3) whose interval contains the mean difference."""
    truth = trials[:, 0].mean(axis=0)
    limits = np.array([[interval(*pair) for pair in result.T] for result in trials])  # (T, 3, 3)
    return ((limits[..., 0] <= truth) & (truth <= limits[..., 1])).mean(axis=0)


def main(options: Options) -> None:
    """Print the coverage for the categories of each benchmark, with one seed and with five."""
    for dataset in ("mvtec", "visa", "mpdd"):
        counts = OFFICIAL[dataset].values()
        for seeds in (1, 5):
            rng = np.random.default_rng(options.seed)
            trials = [trial(rng, counts, seeds, options.resamples) for _ in range(options.trials)]
            shares = zip(IMAGE_METRICS, 100 * coverage(np.array(trials)), strict=True)
            text = ", ".join(f"{metric} {share:.1f} %" for metric, share in shares)
            print(f"{dataset}, {len(counts)} categories, {seeds} seeds: {text}", flush=True)


if __name__ == "__main__":
    run_cli(lambda: main(parse_options(Options(), __doc__, Path(__file__))))

"""Simulate how often the intervals of tools/compare.py contain the true difference (95 % expected).

    python tools/interval_coverage.py
    python tools/interval_coverage.py --designs skewed --trials 500

Two methods score the same images. A score is the sum of the image's own effect, which both methods
share in part, of noise of each run, and for anomalous images of a shift that depends on the method
and the seed. The designs are the test sets of the benchmarks with normal effects, and `skewed`:
unequal categories from very hard to nearly solved, with effects of Student's t distribution with 3
degrees of freedom. The true difference is the mean over all trials. The command prints a line per
setting: the share of trials whose interval contains it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a script: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import numpy as np

from datasets.official import OFFICIAL
from utils.cli import parse_options, run_cli
from utils.compare.intervals import compare_category, interval
from utils.evaluation.metrics import IMAGE_METRICS

NOISE = 0.5  # deviation of each run's scores; that of the images' effects is 1


@dataclass(frozen=True)
class Design:
    """The categories and the two methods of an experiment."""

    sizes: Sequence[tuple[int, int]]  # good and anomalous images of each category
    shifts: Sequence[float]  # of the anomalous images in each category, with the first method
    change: float  # of these shifts with the second method
    seed_deviation: float  # of these shifts between seeds; a single seed stands for 0 shots
    shared: float  # weight of the image's effect that both methods share, of 1
    normal: bool  # effects and noise are normal, or else of Student's t distribution

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        """Draw effects of mean 0 and deviation 1."""
        return rng.normal(size=size) if self.normal else rng.standard_t(3, size) / 3**0.5


def benchmark_design(dataset: str) -> Design:
    """Return the design with the test set of a benchmark."""
    sizes = [(counts.good, counts.anomalous) for counts in OFFICIAL[dataset].values()]
    return Design(sizes, [1.6] * len(sizes), -0.3, 0.3, 0.7, True)


SIZES = (10, 20), (12, 60), (20, 92), (40, 15), (60, 40), (80, 120), (100, 30), (150, 100)
DESIGNS = {dataset: benchmark_design(dataset) for dataset in ("mvtec", "visa", "mpdd")} | {
    "skewed": Design(SIZES, np.linspace(0.8, 3, len(SIZES)), 0.2, 0.15, 0.9, False)
}


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    designs: tuple[str, ...] = tuple(DESIGNS)
    """Designs to simulate: mvtec, visa, mpdd, skewed."""
    trials: int = 2000
    """Independent experiments per setting."""
    resamples: int = 100
    """Resamples per category."""
    seed: int = 0
    """Seed of the simulation."""


def draw_scores(
    rng: np.random.Generator, design: Design, category: int, seeds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scores (2, S, N) of two methods in one category, and the labels (N,) bool."""
    good, anomalous = design.sizes[category]
    labels = np.arange(good + anomalous) >= good
    shared, separate = design.draw(rng, labels.shape), design.draw(rng, (2, 1, len(labels)))
    images = design.shared * shared + (1 - design.shared**2) ** 0.5 * separate
    shifts = design.shifts[category] + design.change * np.array([[0], [1]])
    if seeds > 1:
        shifts = shifts + design.seed_deviation * rng.normal(size=(2, seeds))
    noise = NOISE * design.draw(rng, (2, seeds, len(labels)))
    return images + shifts[..., None] * labels + noise, labels


def trial(
    rng: np.random.Generator, design: Design, seeds: int, resamples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the differences (3,) of one experiment, and the limits of their intervals (3,)."""
    categories = range(len(design.sizes))
    results = [
        compare_category(*draw_scores(rng, design, category, seeds), rng, resamples)
        for category in categories
    ]
    difference = np.mean([result.means[0] for result in results], axis=0)
    variances = np.concatenate([result.variances[:, 0] for result in results]) / len(results) ** 2
    freedoms = [freedom for result in results for freedom in result.freedoms]
    limits = [interval(*pair, freedoms)[:2] for pair in zip(difference, variances.T, strict=True)]
    return difference, *np.transpose(limits)


def coverage(trials: np.ndarray) -> np.ndarray:
    """Return the share (3,) of trials (T, 3, 3) whose interval contains the mean difference."""
    differences, low, high = trials.swapaxes(0, 1)
    truth = differences.mean(axis=0)
    return ((low <= truth) & (truth <= high)).mean(axis=0)


def main(options: Options) -> None:
    """Print the coverage of each design, with one seed and with five."""
    for name in options.designs:
        for seeds in (1, 5):
            rng = np.random.default_rng(options.seed)
            design = DESIGNS[name]
            trials = [trial(rng, design, seeds, options.resamples) for _ in range(options.trials)]
            shares = zip(IMAGE_METRICS, 100 * coverage(np.array(trials)), strict=True)
            text = ", ".join(f"{metric} {share:.1f} %" for metric, share in shares)
            print(f"{name}, {len(design.sizes)} categories, {seeds} seeds: {text}", flush=True)


if __name__ == "__main__":
    run_cli(lambda: main(parse_options(Options(), __doc__, Path(__file__))))

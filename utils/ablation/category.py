"""Score a category in every variant from its stored features, and evaluate the results.

Equal results of different variants, such as those of prompts that do not differ, are evaluated
once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product

import numpy as np

from datasets.references import NO_SEED, ShotSetting
from models.clip.weights import LoadedClip
from utils.ablation.scoring import VariantScorer, text_banks
from utils.ablation.source import StoredCategory
from utils.ablation.variants import Variant
from utils.category.evaluate import Masks, evaluate
from utils.category.result import CategoryResult, collect_results, split_by_image
from utils.experiment.plan import CategoryTask
from utils.experiment.settings import Settings
from utils.results.scores import Scores
from utils.stopwatch import Stopwatch

PER_COLUMN = ("shots", "seed", "image_scores", "maps")  # the fields of `Scores` of each column
MAX_VALUES = 2**24  # of the maps of variants that are scored together: 64 MiB
Metrics = Sequence[tuple[str, float | None]]  # the metrics of one column with their values


@dataclass(frozen=True)
class VariantResult:
    """The results of a category in V variants and R runs: column v * R + r of `result.scores`."""

    variants: Sequence[Variant]
    task: CategoryTask
    result: CategoryResult

    def distinct(self) -> tuple[list[int], list[int]]:
        """Return one of each set of equal columns, and for each column the index of its set."""
        columns = zip(self.result.scores.image_scores, self.result.scores.maps, strict=True)
        digests = [
            sha256(scores.tobytes() + maps.tobytes()).hexdigest() for scores, maps in columns
        ]
        _, distinct, indices = np.unique(digests, return_index=True, return_inverse=True)
        return distinct.tolist(), indices.tolist()

    def calls(self, columns: Sequence[int], count: int) -> Iterator[tuple]:
        """Yield `evaluate_columns` with its arguments, for up to `count` batches of columns."""
        scores, size = self.result.scores, -(-len(columns) // count)
        for start in range(0, len(columns), size):
            batch = columns[start : start + size]
            values = {name: getattr(scores, name)[batch] for name in PER_COLUMN}
            yield evaluate_columns, replace(scores, **values), self.result.masks


def score_category(
    variants: Sequence[Variant],
    stored: StoredCategory,
    settings: Settings,
    clip: LoadedClip,
    clock: Stopwatch,
) -> Iterator[VariantResult]:
    """Score all test images of a category in variants that share a value of `resize`.

    Yields the results of as many variants at a time as MAX_VALUES allows.
    """
    task = stored.task
    with clock.stage("text"):
        banks = text_banks(variants, task.category, settings, clip)
    with clock.stage("score"):
        visual = stored.visual_banks()
    count = max(1, MAX_VALUES // (stored.map_values() * len(task.shot_settings)))
    for start in range(0, len(variants), count):
        batch = variants[start : start + count]
        with clock.stage("score"):
            scorer = VariantScorer(batch, banks[start : start + count], *visual)
            results = []
            for item, features in stored.tests():
                scores, maps = (tensor.cpu().numpy() for tensor in scorer.score(features))
                results += split_by_image([item], scores, maps, maximum=False)
            columns = replace(task, shot_settings=list(task.shot_settings) * len(batch))
            result = VariantResult(batch, task, collect_results(columns, results, None, 0))
        yield result


def metric_rows(
    variants: Sequence[Variant],
    shot_settings: Sequence[ShotSetting],
    metrics: Sequence[Metrics],
    indices: Sequence[int],
) -> list[tuple]:
    """Return rows (variant, shots, seed, metric, value) from the metrics of distinct columns.

    `indices` are those of `VariantResult.distinct`. A variant that needs references has no rows of
    0 shots.
    """
    rows = []
    columns = product(variants, shot_settings)  # in the order of the columns
    for (variant, setting), index in zip(columns, indices, strict=True):
        if setting.shots or not variant.needs_references:
            seed = None if setting.seed == NO_SEED else setting.seed
            rows += [(variant.name, setting.shots, seed, *pair) for pair in metrics[index]]
    return rows


def evaluate_columns(scores: Scores, masks: Masks, clock: Stopwatch) -> list[Metrics]:
    """Return the metrics of each run in `scores`."""
    with clock.stage("metrics"):
        rows, _, _ = evaluate("", scores, masks)
    count = len(rows) // len(scores.shots)
    return [[row[3:] for row in rows[i : i + count]] for i in range(0, len(rows), count)]

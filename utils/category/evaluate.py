"""Compute the metrics and curves of a category."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from torch.utils.data import Subset

from datasets.images import EvalSize
from datasets.references import NO_SEED
from datasets.splits import UNKNOWN
from utils.evaluation.curves import Curve, image_curves, pixel_curves
from utils.evaluation.metrics import IMAGE_METRICS, PixelEvaluator, extra_metrics, image_metrics
from utils.results.scores import Scores
from utils.results.thresholds import pixel_f1_threshold

Masks = Sequence[np.ndarray]  # N of (H_i, W_i) bool, at an evaluation size


def evaluate(
    category: str,
    scores: Scores,
    masks: Masks,
    further_masks: Mapping[EvalSize, Masks] = MappingProxyType({}),
    extra: bool = False,
) -> tuple[list[tuple], dict[int, dict[str, Curve]], float | None]:
    """Return the rows of metrics.csv, curves by run index, and the pixel F1-max threshold.

    A row is (category, shots, seed, metric, value); the value is None where undefined. There are no
    rows if all labels are unknown. Curves come from the first run of each number of shots, and the
    threshold from the last of these runs; both use `masks`. Images with an unknown label are
    ignored; pixel metrics also ignore anomalous images without a mask. Without maps, there are only
    image metrics and curves.

    `further_masks` adds the pixel metrics at its evaluation sizes, named `<metric>@<size>`, and
    `extra` the EXTRA_METRICS at each size.
    """
    labels, first_runs = scores.label.tolist(), scores.first_runs()
    image_values = [image_metrics(row, scores.label) for row in scores.image_scores]
    curves = {run: image_curves(scores.image_scores[run], scores.label) for run in first_runs}
    rows, pixel_threshold = [], None
    if scores.maps is None:
        for run, values in enumerate(image_values):
            rows += metric_rows(category, scores, run, values, None)
    sizes = {} if scores.maps is None else {None: masks, **further_masks}
    for size, size_masks in sizes.items():
        usable = [i for i, mask in enumerate(size_masks) if labels[i] == 0 or mask.any()]
        usable_masks = [size_masks[i] for i in usable]
        pixels = PixelEvaluator(usable_masks)
        for run, values in enumerate(image_values):
            maps = Subset(scores.stitched(run, [mask.shape for mask in size_masks]), usable)
            counts = pixels.count_scores(maps)
            values = values | pixels.metrics(counts)
            if extra:
                values |= extra_metrics(values, counts)
            rows += metric_rows(category, scores, run, values, size)
            if size is None and run in first_runs:
                curves[run] |= pixel_curves(counts)
            if size is None and run == first_runs[-1]:
                pixel_threshold = pixel_f1_threshold(counts, maps, usable_masks)
    if (scores.label == UNKNOWN).all():
        rows = []
    return rows, curves, pixel_threshold


def metric_rows(
    category: str, scores: Scores, run: int, values: Mapping[str, float], size: EvalSize | None
) -> list[tuple]:
    """Return the rows of metrics.csv of one run at one evaluation size; None: the first size.

    Further sizes have no rows of image metrics, which do not depend on them.
    """
    seed = None if scores.seed[run] == NO_SEED else int(scores.seed[run])
    if size is not None:
        values = {f"{m}@{size}": v for m, v in values.items() if m not in IMAGE_METRICS}
    return [
        (category, int(scores.shots[run]), seed, metric, None if np.isnan(value) else float(value))
        for metric, value in values.items()
    ]

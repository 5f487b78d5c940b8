"""Draw the heatmap panels of a category's test images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.decode import SIXTEEN_BITS, White, read_image
from datasets.splits import Sample
from utils.category.result import CategoryResult
from utils.experiment.plan import CategoryTask
from utils.files import write_png
from utils.results.heatmaps import ColourRange, colour_range, draw_panel
from utils.results.scores import Scores
from utils.results.thresholds import Threshold, reference_threshold
from utils.stopwatch import Stopwatch


@dataclass(frozen=True)
class Target:
    """The destination of a category's files and how to draw them: all that a worker must know."""

    folder: Path  # of the results
    notes: list[str]  # warnings to show in every panel
    root: Path  # image paths are relative to it
    apply_exif: bool
    white: Mapping[str, White]  # by category
    heatmap_size: int
    false_alarms: float | None  # the setting FALSE_ALARMS
    extra_metrics: bool


def panel_paths(task: CategoryTask, heatmaps: int | str) -> dict[str, str]:
    """Return the heatmap file of every image to draw: image path to path in the result folder.

    `heatmaps` is the setting. Files are named heatmaps/<category>/<defect>/<stem>.png; where two
    images of a defect share a stem, the suffix is kept, and if they also share the full name, as in
    folders by date, the whole path is used.
    """
    paths = [(sample.defect, Path(sample.image)) for sample in task.tests]
    stems = Counter((defect, path.stem) for defect, path in paths)
    names = Counter((defect, path.name) for defect, path in paths)
    panels = {}
    for sample in task.images_with_panel(heatmaps):
        path = Path(sample.image)
        name = path.stem if stems[sample.defect, path.stem] == 1 else path.name
        if names[sample.defect, path.name] > 1:
            name = sample.image
        panels[sample.image] = f"heatmaps/{task.category}/{sample.defect}/{name}.png"
    return panels


def describe_verdict(score: float, run: str, threshold: Threshold | None) -> str:
    """Return the verdict of a run on an image for the heading of its panel; "" without a threshold.

    >>> describe_verdict(0.5, "4-shot", Threshold(0.25, "references"))
    '   4-shot score 0.500: above the threshold 0.250'
    """
    if threshold is None:
        return ""
    side = "above" if threshold.exceeded_by(score) else "not above"
    return f"   {run} score {score:.3f}: {side} the threshold {threshold.value:.3f}"


def colour_ranges(scores: Scores) -> dict[int, ColourRange]:
    """Return the colours of the first run of each number of shots, the same in all panels."""
    return {run: colour_range(scores.maps[run]) for run in scores.first_runs()}


def draw_heatmaps(
    samples: Sequence[Sample],
    paths: Sequence[str],
    result: CategoryResult,
    ranges: Mapping[int, ColourRange],
    target: Target,
    clock: Stopwatch,
) -> None:
    """Draw the panels of some test images, with one map per number of shots (its first run).

    `result` has these images only, and `paths`, relative to the result folder, are their panels.
    An image without a preview is decoded again.
    """
    with clock.stage("heatmaps"):
        scores, masks, names = result.scores, result.masks, result.scores.run_names()
        maps = {run: scores.stitched(run, [mask.shape for mask in masks]) for run in ranges}
        threshold = None
        if result.leave_one_out:
            references = result.leave_one_out._asdict()
            threshold = reference_threshold(references, target.false_alarms)
        for row, (sample, path) in enumerate(zip(samples, paths, strict=True)):
            image = result.previews.get(sample.image)
            if image is None:
                image = decode(sample, target)
            has_truth = sample.label == 0 or (sample.label == 1 and masks[row].any())
            columns = [
                (names[run], maps[run][row], scores.image_scores[run, row], scale)
                for run, scale in ranges.items()
            ]
            verdict = describe_verdict(scores.image_scores[-1, row], names[-1], threshold)
            panel = draw_panel(
                image,
                masks[row] if has_truth else None,
                columns,
                sample.image + verdict,
                note=". ".join(target.notes),
                height=target.heatmap_size,
            )
            write_png(target.folder / path, panel)


def decode(sample: Sample, target: Target) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of an image."""
    white = target.white.get(sample.class_name, SIXTEEN_BITS)
    return np.asarray(read_image(target.root / sample.image, target.apply_exif, white))

"""What is written for one finished category: scores, metrics and heatmaps, then the mark "done"."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.images import ImageDataset
from datasets.references import reference_rows
from datasets.splits import UNKNOWN, Sample, first_of_each_defect
from utils.folder import ResultFolder
from utils.heatmaps import panel, scale_of, write_panel
from utils.metrics import METRICS, PIXEL_METRICS, PixelEvaluator, image_metrics
from utils.scores import Scores, save_scores, write_score_table
from utils.scoring import Plan, Result
from utils.settings import Settings
from utils.stopwatch import Stopwatch
from utils.tiles import StitchedMaps

Masks = Sequence[np.ndarray]  # N of (H_i, W_i) bool, at the evaluation shape


def write_category(
    folder: ResultFolder,
    plan: Plan,
    result: Result,
    settings: Settings,
    dataset: ImageDataset,
    clock: Stopwatch,
) -> None:
    """Evaluate, write and draw one category; it counts as done only when all of it is there."""
    scores, masks = result.scores, result.masks
    with clock.stage("metrics"):
        metrics = evaluate(plan.category, scores, masks)
    with clock.stage("write"):
        save_scores(folder.path / "scores" / f"{plan.category}.npz", scores)
        defects = [sample.defect for sample in plan.tests]
        write_score_table(folder.path / "scores" / f"{plan.category}.csv", scores, defects)
    with clock.stage("heatmaps"):
        rows = heatmap_rows(plan.tests, settings.heatmaps)
        draw_heatmaps(folder, plan, result, dataset, rows)
    references = reference_rows(plan.category, plan.runs)
    record = {"metrics": metrics, "references": references}
    if plan.leave_one_out:
        record["leave_one_out"] = result.leave_one_out
    folder.finish(plan.category, record)


def stitched(scores: Scores, run: int, masks: Masks) -> StitchedMaps:
    """The maps of one run at the shapes of their masks, made when they are read."""
    return StitchedMaps(scores.maps[run], scores.tiles, [mask.shape for mask in masks])


def evaluate(category: str, scores: Scores, masks: Masks) -> list[tuple]:
    """The rows of metrics.csv: category, shots, seed, metric, value (None where undefined).

    None at all where a label is unknown; no pixel metrics where an anomalous image has no mask.
    """
    if (scores.label == UNKNOWN).any():
        return []
    marked = all(mask.any() for mask, label in zip(masks, scores.label, strict=True) if label)
    pixels = PixelEvaluator(masks)
    rows = []
    for run, (shots, seed) in enumerate(zip(scores.shots, scores.seed, strict=True)):
        values = image_metrics(scores.image_scores[run], scores.label)
        found = pixels(stitched(scores, run, masks)) if marked else {}
        values |= {metric: found.get(metric, np.nan) for metric in PIXEL_METRICS}
        for metric in METRICS:
            value = None if np.isnan(values[metric]) else float(values[metric])
            rows.append((category, int(shots), int(seed) if shots else None, metric, value))
    return rows


def heatmap_rows(tests: Sequence[Sample], wanted: int | str) -> Sequence[int]:
    """The test rows to draw: "all", "none", or the first of each defect."""
    if wanted == "all":
        return range(len(tests))
    return first_of_each_defect(tests, 0 if wanted == "none" else wanted)


def draw_heatmaps(
    folder: ResultFolder, plan: Plan, result: Result, dataset: ImageDataset, rows: Sequence[int]
) -> None:
    """One panel per chosen test image; its columns are the first run of each number of shots.

    Every column has one scale, the same for all images of the category.
    """
    scores, masks = result.scores, result.masks
    shots = scores.shots.tolist()
    columns = [shots.index(count) for count in sorted(set(shots))]
    titles = scores.run_names()
    scales = {run: scale_of(scores.maps[run]) for run in columns}
    maps = {run: stitched(scores, run, masks) for run in columns}
    names = panel_names(plan.tests)
    for row in rows:
        sample = plan.tests[row]
        marked = sample.label == 0 or (sample.label == 1 and masks[row].any())
        drawn = panel(
            np.asarray(dataset.read(sample.image)),
            masks[row] if marked else None,
            [
                (titles[run], maps[run][row], scores.image_scores[run, row], scales[run])
                for run in columns
            ],
            sample.image,
            note="; ".join(folder.record["notes"]),
        )
        write_panel(folder.path / "heatmaps" / plan.category / names[row], drawn)


def panel_names(tests: Sequence[Sample]) -> list[str]:
    """A file for each panel, "<defect>/<stem>.png"; the suffix stays where two stems are one."""
    stems = Counter((sample.defect, Path(sample.image).stem) for sample in tests)
    names = []
    for sample in tests:
        path = Path(sample.image)
        unique = stems[sample.defect, path.stem] == 1
        names.append(f"{sample.defect}/{path.stem if unique else path.name}.png")
    return names

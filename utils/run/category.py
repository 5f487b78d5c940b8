"""What is written for one finished category: scores, metrics, heatmaps, its part of the report.

The mark "done" comes last.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.images import ImageDataset
from datasets.references import reference_rows
from datasets.splits import UNKNOWN, Sample, first_of_each_defect
from utils.evaluation.curves import Curve, image_curves, pixel_curves
from utils.evaluation.metrics import METRICS, PixelEvaluator, image_metrics
from utils.evaluation.stitching import StitchedMaps
from utils.files import write_png
from utils.report.data import category_data, write_category_data
from utils.results.folder import ResultFolder
from utils.results.heatmaps import colour_range, draw_panel
from utils.results.scores import Scores, save_scores, write_score_table
from utils.run.inference import Plan, Result
from utils.run.settings import Settings
from utils.stopwatch import Stopwatch

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
        metrics, curves = evaluate(plan.category, scores, masks)
    with clock.stage("write"):
        save_scores(folder.path / "scores" / f"{plan.category}.npz", scores)
        defects = [sample.defect for sample in plan.tests]
        write_score_table(folder.path / "scores" / f"{plan.category}.csv", scores, defects)
    with clock.stage("heatmaps"):
        rows = heatmap_rows(plan.tests, settings.heatmaps)
        panels = panel_paths(plan)
        chosen = {row: panels[row] for row in rows}
        draw_heatmaps(folder, plan, result, dataset, chosen, settings.heatmap_size)
    with clock.stage("report"):
        data = category_data(plan.tests, scores, masks, curves, dataset, chosen)
        write_category_data(folder.path, plan.category, data)
    references = reference_rows(plan.category, plan.runs)
    record = {"metrics": metrics, "references": references}
    if plan.leave_one_out:
        record["leave_one_out"] = result.leave_one_out
    folder.finish(plan.category, record)


def stitched(scores: Scores, run: int, masks: Masks) -> StitchedMaps:
    """The maps of one run at the shapes of their masks, made when they are read."""
    return StitchedMaps(scores.maps[run], scores.tiles, [mask.shape for mask in masks])


def evaluate(
    category: str, scores: Scores, masks: Masks
) -> tuple[list[tuple], dict[int, dict[str, Curve]]]:
    """The rows of metrics.csv, and the curves of the runs that are drawn.

    A row is category, shots, seed, metric, value (None where undefined). There are no rows where
    a label is unknown, and no pixel metrics where an anomalous image has no mask.
    """
    marked = all(mask.any() for mask, label in zip(masks, scores.label, strict=True) if label == 1)
    pixels = PixelEvaluator(masks if marked else [np.zeros_like(mask) for mask in masks])
    drawn = scores.first_runs()
    rows, curves = [], {}
    for run, (shots, seed) in enumerate(zip(scores.shots, scores.seed, strict=True)):
        images = scores.image_scores[run], scores.label
        counts = pixels.count_scores(stitched(scores, run, masks))
        values = image_metrics(*images) | pixels.metrics(counts)
        if run in drawn:
            curves[run] = image_curves(*images) | pixel_curves(counts)
        for metric in METRICS:
            value = None if np.isnan(values[metric]) else float(values[metric])
            rows.append((category, int(shots), int(seed) if shots else None, metric, value))
    return [] if (scores.label == UNKNOWN).any() else rows, curves


def heatmap_rows(tests: Sequence[Sample], wanted: int | str) -> Sequence[int]:
    """The test rows to draw: "all", "none", or the first of each defect."""
    if wanted == "all":
        return range(len(tests))
    return first_of_each_defect(tests, 0 if wanted == "none" else wanted)


def draw_heatmaps(
    folder: ResultFolder,
    plan: Plan,
    result: Result,
    dataset: ImageDataset,
    panels: Mapping[int, str],
    height: int,
) -> None:
    """A panel for each chosen row; its columns are the first run of each number of shots.

    Every column has one scale, the same for all images of the category.
    """
    scores, masks = result.scores, result.masks
    columns = scores.first_runs()
    titles = scores.run_names()
    scales = {run: colour_range(scores.maps[run]) for run in columns}
    maps = {run: stitched(scores, run, masks) for run in columns}
    for row, path in panels.items():
        sample = plan.tests[row]
        marked = sample.label == 0 or (sample.label == 1 and masks[row].any())
        drawn = draw_panel(
            np.asarray(dataset.read(sample.image)),
            masks[row] if marked else None,
            [
                (titles[run], maps[run][row], scores.image_scores[run, row], scales[run])
                for run in columns
            ],
            sample.image,
            note="; ".join(folder.record["notes"]),
            height=height,
        )
        write_png(folder.path / path, drawn)


def panel_paths(plan: Plan) -> list[str]:
    """A file for each panel: heatmaps/<category>/<defect>/<stem>.png in the result folder.

    The suffix stays where two pictures of a defect have one stem.
    """
    stems = Counter((sample.defect, Path(sample.image).stem) for sample in plan.tests)
    paths = []
    for sample in plan.tests:
        path = Path(sample.image)
        unique = stems[sample.defect, path.stem] == 1
        name = path.stem if unique else path.name
        paths.append(f"heatmaps/{plan.category}/{sample.defect}/{name}.png")
    return paths

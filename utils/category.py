"""What is written for one finished category: scores, metrics and heatmaps, then the mark "done"."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.decode import read_image
from datasets.references import reference_rows
from datasets.splits import Sample, first_of_each_defect
from utils.folder import ResultFolder
from utils.heatmaps import panel, scale_of, write_panel
from utils.metrics import METRICS, PixelEvaluator, image_metrics
from utils.scores import Scores, save_scores, write_score_table
from utils.scoring import Plan
from utils.settings import Settings
from utils.stopwatch import Stopwatch
from utils.tiles import StitchedMaps

Masks = Sequence[np.ndarray]  # N of (H_i, W_i) bool, at the evaluation shape


def write_category(
    folder: ResultFolder,
    plan: Plan,
    scores: Scores,
    masks: Masks,
    settings: Settings,
    root: Path,
    clock: Stopwatch,
) -> None:
    """Evaluate, write and draw one category; it counts as done only when all of it is there."""
    with clock.stage("metrics"):
        metrics = evaluate(plan.category, scores, masks)
    with clock.stage("write"):
        save_scores(folder.path / "scores" / f"{plan.category}.npz", scores)
        defects = [sample.defect for sample in plan.tests]
        write_score_table(folder.path / "scores" / f"{plan.category}.csv", scores, defects)
    with clock.stage("heatmaps"):
        rows = heatmap_rows(plan.tests, settings.heatmaps)
        draw_heatmaps(folder, plan, scores, masks, root, rows)
    references = reference_rows(plan.category, plan.runs)
    folder.finish(plan.category, {"metrics": metrics, "references": references})


def stitched(scores: Scores, run: int, masks: Masks) -> StitchedMaps:
    """The maps of one run at the shapes of their masks, made when they are read."""
    return StitchedMaps(scores.maps[run], scores.tiles, [mask.shape for mask in masks])


def evaluate(category: str, scores: Scores, masks: Masks) -> list[tuple]:
    """The rows of metrics.csv: category, shots, seed, metric, value (None where undefined)."""
    pixels = PixelEvaluator(masks)
    rows = []
    for run, (shots, seed) in enumerate(zip(scores.shots, scores.seed, strict=True)):
        values = image_metrics(scores.image_scores[run], scores.label)
        values |= pixels(stitched(scores, run, masks))
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
    folder: ResultFolder,
    plan: Plan,
    scores: Scores,
    masks: Masks,
    root: Path,
    rows: Sequence[int],
) -> None:
    """One panel per chosen test image; its columns are the first run of each number of shots.

    Every column has one scale, the same for all images of the category.
    """
    shots = scores.shots.tolist()
    columns = [shots.index(count) for count in sorted(set(shots))]
    titles = scores.run_names()
    scales = {run: scale_of(scores.maps[run]) for run in columns}
    maps = {run: stitched(scores, run, masks) for run in columns}
    for row in rows:
        sample = plan.tests[row]
        drawn = panel(
            np.asarray(read_image(root / sample.image)),
            masks[row] if sample.label else None,
            [
                (titles[run], maps[run][row], scores.image_scores[run, row], scales[run])
                for run in columns
            ],
            sample.image,
            note="; ".join(folder.record["notes"]),
        )
        name = f"{Path(sample.image).stem}.png"
        write_panel(folder.path / "heatmaps" / plan.category / sample.defect / name, drawn)

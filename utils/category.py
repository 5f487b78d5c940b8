"""What is written for one finished category: scores, metrics and heatmaps, then the mark "done"."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.images import read_image
from datasets.references import Run, reference_rows
from datasets.splits import Sample, first_of_each_defect
from utils.files import atomic_path
from utils.folder import ResultFolder
from utils.heatmaps import panel, scale_of
from utils.metrics import METRICS, PixelEvaluator, image_metrics
from utils.scores import save_scores, write_score_table
from utils.scoring import Plan, Scores
from utils.settings import Settings
from utils.stopwatch import Stopwatch
from utils.tiles import StitchedMaps


def write_category(
    folder: ResultFolder,
    plan: Plan,
    scores: Scores,
    settings: Settings,
    root: Path,
    clock: Stopwatch,
) -> None:
    """Evaluate, write and draw one category; it counts as done only when all of it is there."""
    with clock.stage("metrics"):
        metrics = evaluate(plan, scores)
    with clock.stage("write"):
        write_scores(folder.path / "scores", plan, scores)
    with clock.stage("heatmaps"):
        draw_heatmaps(folder, plan, scores, root, heatmap_rows(plan.tests, settings.heatmaps))
    folder.finish(
        plan.category,
        {"metrics": metrics, "references": reference_rows(plan.category, plan.runs)},
    )


def stitched(scores: Scores, run: int) -> StitchedMaps:
    """The maps of one run at their evaluation shapes, made when they are read."""
    return StitchedMaps(scores.maps[run], scores.tiles, [mask.shape for mask in scores.masks])


def evaluate(plan: Plan, scores: Scores) -> list[tuple]:
    """The rows of metrics.csv: category, shots, seed, metric, value (None where undefined)."""
    labels = np.array([sample.label for sample in plan.tests])
    pixels = PixelEvaluator(scores.masks)
    rows = []
    for number, run in enumerate(plan.runs):
        values = image_metrics(scores.image_scores[number], labels)
        values |= pixels(stitched(scores, number))
        seed = None if run.shots == 0 else run.seed
        for metric in METRICS:
            value = None if np.isnan(values[metric]) else float(values[metric])
            rows.append((plan.category, run.shots, seed, metric, value))
    return rows


def write_scores(folder: Path, plan: Plan, scores: Scores) -> None:
    """The scores and maps of one category as <category>.npz, the image scores as a CSV too."""
    runs, tests = plan.runs, plan.tests
    save_scores(
        folder / f"{plan.category}.npz",
        image=[sample.image for sample in tests],
        label=[sample.label for sample in tests],
        shots=[run.shots for run in runs],
        seed=[run.seed for run in runs],
        image_scores=scores.image_scores,
        maps=scores.maps,
        tiles=scores.tiles,
        size=[mask.shape for mask in scores.masks],
    )
    write_score_table(
        folder / f"{plan.category}.csv",
        tests,
        [run.title for run in runs],
        scores.image_scores,
    )


def heatmap_rows(tests: Sequence[Sample], wanted: int | str) -> Sequence[int]:
    """The test rows to draw: "all", "none", or the first of each defect."""
    if wanted == "all":
        return range(len(tests))
    return first_of_each_defect(tests, 0 if wanted == "none" else wanted)


def first_runs(runs: Sequence[Run]) -> list[int]:
    """The first run of each number of shots: the columns of a heatmap panel."""
    shots = [run.shots for run in runs]
    return [shots.index(count) for count in sorted(set(shots))]


def draw_heatmaps(
    folder: ResultFolder, plan: Plan, scores: Scores, root: Path, chosen: Sequence[int]
) -> None:
    """One panel per chosen test image, all on the category's own scale per column."""
    columns = first_runs(plan.runs)
    scales = [scale_of(scores.maps[run]) for run in columns]
    note = "; ".join(folder.record["notes"])
    for row in chosen:
        sample = plan.tests[row]
        maps = [
            (plan.runs[run].title, stitched(scores, run)[row], scores.image_scores[run][row], scale)
            for run, scale in zip(columns, scales, strict=True)
        ]
        mask = scores.masks[row] if sample.label else None
        image = np.asarray(read_image(root / sample.image))
        drawn = panel(image, mask, maps, sample.image, note=note)
        name = f"{Path(sample.image).stem}.png"
        with atomic_path(
            folder.path / "heatmaps" / plan.category / sample.defect / name
        ) as temporary:
            drawn.save(temporary, format="PNG")

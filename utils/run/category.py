"""Evaluate, write and draw one scored category.

This writes scores/<category>.npz and .csv, heatmaps/<category>/ and report/<category>.json;
done/<category>.json comes last and marks the category as finished.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Subset

from datasets.decode import read_image
from datasets.references import NO_SEED, reference_rows
from datasets.splits import UNKNOWN, Sample, first_of_each_defect
from utils.evaluation.curves import Curve, image_curves, pixel_curves
from utils.evaluation.metrics import METRICS, PixelEvaluator, image_metrics
from utils.files import write_png
from utils.report.data import category_data, write_category_data
from utils.results.heatmaps import colour_range, draw_panel
from utils.results.scores import Scores, save_scores, write_score_table
from utils.results.thresholds import pixel_f1_threshold
from utils.run.inference import CategoryResult
from utils.run.plan import CategoryTask
from utils.run.session import Session

Masks = Sequence[np.ndarray]  # N of (H_i, W_i) bool, at the evaluation shape


def write_category(task: CategoryTask, result: CategoryResult, session: Session) -> None:
    """Write everything about one category, and mark it as finished at the end."""
    folder, settings, clock = session.folder, session.settings, session.clock
    category, scores, masks = task.category, result.scores, result.masks
    with clock.stage("metrics"):
        metrics, curves = evaluate(category, scores, masks)
        pixel_threshold = shown_pixel_threshold(scores, masks)
    with clock.stage("write"):
        save_scores(folder.path / "scores" / f"{category}.npz", scores)
        defects = {sample.image: sample.defect for sample in task.tests}
        write_score_table(folder.path / "scores" / f"{category}.csv", scores, defects)
    with clock.stage("heatmaps"):
        panels = panel_paths(category, task.tests, settings.heatmaps)
        draw_heatmaps(task, result, panels, session)
    with clock.stage("report"):
        data = category_data(task.tests, scores, masks, result.thumbnails, curves, panels)
        write_category_data(folder.path, category, data)
    record = {"metrics": metrics, "references": reference_rows(category, task.shot_settings)}
    record["pixel_threshold"] = pixel_threshold
    if result.leave_one_out:
        record |= result.leave_one_out._asdict()
    folder.finish(category, record)
    folder.write_times(clock)


def evaluate(
    category: str, scores: Scores, masks: Masks
) -> tuple[list[tuple], dict[int, dict[str, Curve]]]:
    """Return the rows of metrics.csv, and the curves of the first run of each number of shots.

    Curves are keyed by run index. A row is (category, shots, seed, metric, value); the value is
    None where undefined. There are no rows if a label is unknown, and pixel metrics are undefined
    if an anomalous image has no mask.
    """
    complete = all(
        mask.any() for mask, label in zip(masks, scores.label, strict=True) if label == 1
    )
    pixels = PixelEvaluator(masks if complete else [np.zeros_like(mask) for mask in masks])
    first_runs = scores.first_runs()
    rows, curves = [], {}
    for run, (shots, seed) in enumerate(zip(scores.shots, scores.seed, strict=True)):
        counts = pixels.count_scores(scores.stitched(run, [mask.shape for mask in masks]))
        values = image_metrics(scores.image_scores[run], scores.label) | pixels.metrics(counts)
        if run in first_runs:
            curves[run] = image_curves(scores.image_scores[run], scores.label)
            curves[run] |= pixel_curves(counts)
        for metric in METRICS:
            value = None if np.isnan(values[metric]) else float(values[metric])
            rows.append(
                (category, int(shots), None if seed == NO_SEED else int(seed), metric, value)
            )
    if (scores.label == UNKNOWN).any():
        rows = []
    return rows, curves


def shown_pixel_threshold(scores: Scores, masks: Masks) -> float | None:
    """Return the map value of the pixel F1-max, in the first run with the most shots.

    Anomalous images without a mask are left out.
    """
    usable = [row for row, mask in enumerate(masks) if scores.label[row] != 1 or mask.any()]
    maps = scores.stitched(scores.first_runs()[-1], [mask.shape for mask in masks])
    return pixel_f1_threshold(Subset(maps, usable), [masks[row] for row in usable])


def panel_paths(category: str, tests: Sequence[Sample], heatmaps: int | str) -> dict[str, str]:
    """Return the heatmap file of every image to draw: image path to path in the result folder.

    `heatmaps` is "all", "none" or the number of images of each defect. Files are named
    heatmaps/<category>/<defect>/<stem>.png; where two images of a defect share a stem, the suffix
    is kept.
    """
    count = {"all": len(tests), "none": 0}.get(heatmaps, heatmaps)
    stems = Counter((sample.defect, Path(sample.image).stem) for sample in tests)
    panels = {}
    for sample in (tests[row] for row in first_of_each_defect(tests, count)):
        path = Path(sample.image)
        name = path.stem if stems[sample.defect, path.stem] == 1 else path.name
        panels[sample.image] = f"heatmaps/{category}/{sample.defect}/{name}.png"
    return panels


def draw_heatmaps(
    task: CategoryTask, result: CategoryResult, panels: Mapping[str, str], session: Session
) -> None:
    """Draw a panel for each image in `panels`, with one map per number of shots (its first run).

    Each column has one colour range for the whole category. It is known only once the category is
    scored; keeping all decoded images until then would take megabytes each, so the images that
    are drawn are decoded a second time.
    """
    scores, masks = result.scores, result.masks
    runs, names = scores.first_runs(), scores.run_names()
    ranges = {run: colour_range(scores.maps[run]) for run in runs}
    maps = {run: scores.stitched(run, [mask.shape for mask in masks]) for run in runs}
    for row, sample in enumerate(task.tests):
        if sample.image not in panels:
            continue
        image = read_image(session.experiment.root / sample.image, session.experiment.apply_exif)
        has_truth = sample.label == 0 or (sample.label == 1 and masks[row].any())
        panel = draw_panel(
            np.asarray(image),
            masks[row] if has_truth else None,
            [
                (names[run], maps[run][row], scores.image_scores[run, row], ranges[run])
                for run in runs
            ],
            sample.image,
            note="; ".join(session.folder.record["notes"]),
            height=session.settings.heatmap_size,
        )
        write_png(session.folder.path / panels[sample.image], panel)

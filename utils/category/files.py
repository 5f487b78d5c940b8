"""Write the files of a scored category: the functions that worker processes call.

They write scores/<category>.npz and .csv, report/<category>.json and, if the scores have maps,
heatmaps/<category>/ and defects/<category>.jsonl.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from datasets.references import reference_rows
from utils.category.evaluate import evaluate
from utils.category.panels import Target, colour_ranges, draw_heatmaps
from utils.category.result import CategoryResult
from utils.experiment.plan import CategoryTask
from utils.report.data import category_data, write_category_data
from utils.results.defects import write_category_defects
from utils.results.scores import save_scores, write_score_table
from utils.results.thresholds import reference_threshold
from utils.stopwatch import Stopwatch

PANELS_PER_CALL = 16  # images whose panels one worker draws


def category_calls(
    task: CategoryTask, result: CategoryResult, panels: Mapping[str, str], target: Target
) -> Iterator[tuple]:
    """Yield the calls that write a category, as (function, *arguments); `write_category` first.

    Each call has only the data that it needs, because a worker process reads it from a file.
    """
    yield write_category, task, replace(result, previews={}), panels, target
    rows = [row for row, sample in enumerate(task.tests) if sample.image in panels]
    ranges = colour_ranges(result.scores) if rows else {}
    for start in range(0, len(rows), PANELS_PER_CALL):
        batch = rows[start : start + PANELS_PER_CALL]
        samples = [task.tests[row] for row in batch]
        paths = [panels[sample.image] for sample in samples]
        yield draw_heatmaps, samples, paths, result.panel_rows(batch), ranges, target


def write_category(
    task: CategoryTask,
    result: CategoryResult,
    panels: Mapping[str, str],
    target: Target,
    clock: Stopwatch,
) -> dict:
    """Write everything about one category but its heatmaps; return its record for done/.

    `panels` maps images to their heatmap files, as `panel_paths` does.
    """
    folder, category, scores, masks = target.folder, task.category, result.scores, result.masks
    with clock.stage("metrics"):
        metrics, curves, pixel_threshold = evaluate(
            category, scores, masks, result.further_masks, target.extra_metrics
        )
    with clock.stage("write"):
        save_scores(folder / "scores" / f"{category}.npz", scores)
        defects = {sample.image: sample.defect for sample in task.tests}
        write_score_table(folder / "scores" / f"{category}.csv", scores, defects)
    with clock.stage("report"):
        data = category_data(task.tests, scores, masks, result.thumbnails, curves, panels)
        write_category_data(folder, category, data)
    record = {
        "metrics": metrics,
        "references": reference_rows(category, task.shot_settings),
        "pixel_threshold": pixel_threshold,
    }
    if result.leave_one_out:
        record |= result.leave_one_out._asdict()
        if scores.maps is not None:
            record["panel_threshold"] = reference_threshold(record, target.false_alarms).value
    if scores.maps is not None:
        with clock.stage("defects"):
            write_category_defects(folder, category, scores, record, target.false_alarms)
    return record

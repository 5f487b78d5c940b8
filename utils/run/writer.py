"""Evaluate, write and draw scored categories, in worker processes while the next one is encoded.

This writes scores/<category>.npz and .csv, report/<category>.json and, if the scores have maps,
heatmaps/<category>/ and defects/<category>.jsonl; done/<category>.json comes last and marks the
category as finished.
"""

import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from torch.utils.data import Subset

from datasets.decode import SIXTEEN_BITS, White, read_image
from datasets.images import EvalSize
from datasets.references import NO_SEED, reference_rows
from datasets.splits import UNKNOWN, Sample
from utils.evaluation.curves import Curve, image_curves, pixel_curves
from utils.evaluation.metrics import IMAGE_METRICS, PixelEvaluator, extra_metrics, image_metrics
from utils.experiment.plan import CategoryTask
from utils.files import atomic_path, write_png
from utils.report.data import category_data, write_category_data
from utils.results.defects import write_category_defects
from utils.results.heatmaps import ColourRange, colour_range, draw_panel
from utils.results.methods import has_maps
from utils.results.scores import Scores, save_scores, write_score_table
from utils.results.thresholds import Threshold, pixel_f1_threshold, reference_threshold
from utils.run.inference import CategoryResult
from utils.run.session import Session
from utils.stopwatch import WORKERS, Stopwatch
from utils.workers import worker_errors

MAX_WAITING = 4  # scored categories that wait in files, which bounds the disk space
PANELS_PER_CALL = 16  # images whose panels one worker draws
Masks = Sequence[np.ndarray]  # N of (H_i, W_i) bool, at an evaluation size


@dataclass(frozen=True)
class Target:
    """The destination of a category's files and how to draw them: all that a worker must know."""

    folder: Path  # of the results
    notes: list[str]  # warnings to show in every panel
    root: Path  # image paths are relative to it
    apply_exif: bool
    white: Mapping[str, White]  # by category
    heatmap_size: int
    false_alarms: float | None  # the rate that decides on the threshold from the references
    extra_metrics: bool

    @staticmethod
    def from_session(session: Session) -> "Target":
        """Return the target of a session."""
        settings, experiment, folder = session.settings, session.experiment, session.folder
        source = experiment.root, experiment.apply_exif, experiment.white
        notes = folder.record["notes"]
        rate = getattr(settings, "false_alarms", None)
        return Target(
            *(folder.path, notes, *source),
            *(settings.heatmap_size, rate, settings.extra_metrics),
        )


class CategoryWriter:
    """Write scored categories, in the session's worker processes if it has any.

    A category that all workers have written is marked as finished, in the main process;
    `after_category` is then called. On exit, wait for all scored categories, even after an error,
    but not if the run is interrupted. The first error is raised.
    """

    def __init__(self, session: Session, after_category: Callable[[], object]):
        self.session = session
        self.after_category = after_category
        self.waiting: deque[tuple[CategoryTask, list[Future]]] = deque()

    def __enter__(self) -> "CategoryWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            return
        errors = []
        while self.waiting:
            try:
                self.collect(0)
            except Exception as error:  # the other categories may have been written
                errors.append(error)
        if errors and kind is None:
            raise errors[0]

    def write(self, task: CategoryTask, result: CategoryResult) -> None:
        """Write a category, or have the workers write it; then `collect`."""
        target = Target.from_session(self.session)
        settings = self.session.settings
        panels = panel_paths(task, settings.heatmaps) if has_maps(vars(settings)) else {}
        calls = category_calls(task, result, panels, target)
        if self.session.pool is None:
            record, *_ = [call(*arguments, self.session.clock) for call, *arguments in calls]
            self._finish(task, record)
            return
        futures = []
        for number, call in enumerate(calls):
            path = target.folder / f".{task.category}-{number}.part"
            store_call(path, call)
            futures.append(self.session.pool.submit(call_stored, path))
        self.waiting.append((task, futures))
        self.collect()

    def collect(self, limit: int = MAX_WAITING) -> None:
        """Finish written categories; block while more than `limit` are pending.

        Raises the `InputError` of a worker process; its category is no longer pending.
        """
        while self.waiting:
            task, futures = self.waiting[0]
            if len(self.waiting) <= limit and not all(future.done() for future in futures):
                return
            self.waiting.popleft()
            with self.session.clock.stage("wait for workers"), worker_errors():
                (record, seconds), *others = [future.result() for future in futures]
            for times in (seconds, *(times for _, times in others)):
                self.session.clock.add(times, WORKERS)
            self._finish(task, record)

    def _finish(self, task: CategoryTask, record: dict) -> None:
        self.session.folder.finish(task.category, record)
        self.session.folder.write_times(self.session.clock)
        self.after_category()


def category_calls(
    task: CategoryTask, result: CategoryResult, panels: Mapping[str, str], target: Target
) -> Iterator[tuple]:
    """Yield the functions that write a category with their arguments, `write_category` first.

    Each call has only the data that it needs, because a worker process reads it from a file.
    """
    yield write_category, task, replace(result, previews={}), panels, target
    rows = [row for row, sample in enumerate(task.tests) if sample.image in panels]
    ranges = shown_ranges(result.scores) if rows else {}
    for start in range(0, len(rows), PANELS_PER_CALL):
        batch = rows[start : start + PANELS_PER_CALL]
        samples = [task.tests[row] for row in batch]
        paths = [panels[sample.image] for sample in samples]
        yield draw_heatmaps, samples, paths, result.panel_rows(batch), ranges, target


def store_call(path: Path, call: tuple) -> None:
    """Write a function and its arguments to a file for `call_stored`.

    The queue of a process pool must not carry them: if a worker dies, the main process would wait
    for ever until somebody reads the rest.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        pickle.dump(call, stream, pickle.HIGHEST_PROTOCOL)


def call_stored(path: Path) -> tuple[object, dict[str, float]]:
    """Call what `store_call` wrote, with a clock, in a worker; return its result and seconds."""
    with path.open("rb") as stream:
        function, *arguments = pickle.load(stream)
    path.unlink()
    clock = Stopwatch()
    return function(*arguments, clock), clock.seconds


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
    record = {"metrics": metrics, "references": reference_rows(category, task.shot_settings)}
    record["pixel_threshold"] = pixel_threshold
    if result.leave_one_out:
        record |= result.leave_one_out._asdict()
    if result.leave_one_out and scores.maps is not None:
        record["panel_threshold"] = reference_threshold(record, target.false_alarms).value
    if scores.maps is not None:
        with clock.stage("defects"):
            write_category_defects(folder, category, scores, record, target.false_alarms)
    return record


def evaluate(
    category: str,
    scores: Scores,
    masks: Masks,
    further_masks: Mapping[EvalSize, Masks] = MappingProxyType({}),
    extra: bool = False,
) -> tuple[list[tuple], dict[int, dict[str, Curve]], float | None]:
    """Return the rows of metrics.csv, curves by run index, and the pixel F1-max threshold.

    A row is (category, shots, seed, metric, value); the value is None where undefined. There are no
    rows if all labels are unknown. Curves are those of the first run of each number of shots, and
    the threshold is that of the last of these runs; both are those of `masks`. All leave out images
    whose label is unknown, those of pixels also anomalous images without a mask. Without maps,
    there are image metrics and curves alone.

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
        usable = [row for row, mask in enumerate(size_masks) if labels[row] == 0 or mask.any()]
        usable_masks = [size_masks[row] for row in usable]
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


def panel_paths(task: CategoryTask, heatmaps: int | str) -> dict[str, str]:
    """Return the heatmap file of every image to draw: image path to path in the result folder.

    `heatmaps` is the setting. Files are named heatmaps/<category>/<defect>/<stem>.png; where two
    images of a defect share a stem, the suffix is kept, and where they share the whole name, as in
    folders by date, the path.
    """
    paths = [(sample.defect, Path(sample.image)) for sample in task.tests]
    stems = Counter((defect, path.stem) for defect, path in paths)
    names = Counter((defect, path.name) for defect, path in paths)
    panels = {}
    for sample in task.drawn(heatmaps):
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


def shown_ranges(scores: Scores) -> dict[int, ColourRange]:
    """Return the colour range of each shown run, which all panels of a category share."""
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

    `paths` are those of the panels in the result folder, and `result` is that of the images
    `samples`. An image without a preview is decoded again.
    """
    with clock.stage("heatmaps"):
        scores, masks, names = result.scores, result.masks, result.scores.run_names()
        maps = {run: scores.stitched(run, [mask.shape for mask in masks]) for run in ranges}
        threshold = result.leave_one_out and reference_threshold(
            result.leave_one_out._asdict(), target.false_alarms
        )
        for row, (sample, path) in enumerate(zip(samples, paths, strict=True)):
            image = result.previews.get(sample.image)
            if image is None:
                source = target.root / sample.image
                white = target.white.get(sample.class_name, SIXTEEN_BITS)
                image = np.asarray(read_image(source, target.apply_exif, white))
            has_truth = sample.label == 0 or (sample.label == 1 and masks[row].any())
            panel = draw_panel(
                image,
                masks[row] if has_truth else None,
                [
                    (names[run], maps[run][row], scores.image_scores[run, row], scale)
                    for run, scale in ranges.items()
                ],
                sample.image + describe_verdict(scores.image_scores[-1, row], names[-1], threshold),
                note="; ".join(target.notes),
                height=target.heatmap_size,
            )
            write_png(target.folder / path, panel)

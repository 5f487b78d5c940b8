"""Run an ablation: encode every image once, score it in every variant, and compare the results.

The images are encoded by ordinary runs that keep their features: one with `resize` "tile" and, if
an image is not square, one with "squash". All variants are then scored from these features,
category by category, while worker processes compute the metrics of the category before. An
ablation that was stopped continues with the first unfinished category when it is started again.
"""

import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict
from pathlib import Path

from datasets.decode import open_image
from datasets.demo import render_if_needed
from datasets.references import reference_rows
from models.clip.device import resolve_device, to_device
from models.clip.weights import build_clip, locate_clip
from utils.ablation.analysis import effects, long_form, means
from utils.ablation.category import VariantResult, metric_rows, score_category
from utils.ablation.settings import AblationSettings
from utils.ablation.source import StoredCategory
from utils.ablation.variants import FEW_SHOT_SWITCH, Variant, corners, departures
from utils.cli import exit_on_error
from utils.distributed.context import SINGLE_PROCESS, DistributedContext
from utils.distributed.join import init_distributed
from utils.errors import ANOTHER_FOLDER, InputError
from utils.experiment.plan import CategoryTask, images_of, plan_benchmark
from utils.experiment.settings import NOT_FINGERPRINTED, Settings, parse_settings
from utils.features.find import find_features
from utils.files import write_text
from utils.log import log, log_results, log_to_console, log_to_file, suppress_output
from utils.results.folder import (
    ResultFolder,
    alternative_to_another_folder,
    describe_changes,
    lock_folder,
    read_finished,
    read_json,
    summarise_changes,
)
from utils.results.scores import load_arrays
from utils.run import benchmark
from utils.run.session import count_finished
from utils.run.writer import call_stored, store_call
from utils.stopwatch import WORKERS, Stopwatch
from utils.workers import worker_errors, worker_pool

MAX_WAITING = 1  # categories whose metrics are computed while the next one is scored
Runs = dict[str, Settings]  # the resolved settings of the encoding runs, by their `resize`


def main(constants: dict) -> None:
    """Run an ablation as a script; `constants` is the runner's globals().

    A user's mistake ends the process with one sentence.
    """
    with init_distributed() as context, exit_on_error(context.print_stderr):
        given = {name: value for name, value in constants.items() if name != "DATASET"}
        settings = parse_settings(given, constants["DATASET"], AblationSettings)
        if settings.dataset == "demo" and context.is_main:
            with suppress_output(settings.quiet):
                render_if_needed(settings.data_root)
        context.barrier()
        run(settings, context)


def run(settings: AblationSettings, context: DistributedContext = SINGLE_PROCESS) -> str:
    """Encode, score and compare; return the page as Markdown, or "" in other processes.

    Raises `InputError` for a user's mistake.
    """
    runs = {"tile": settings.run_settings("tile").resolve()}
    path = Path(runs["tile"].result_dir).parent
    rescore = context.is_main and check_settings(path, settings)
    encode(runs["tile"], rescore, context)
    if context.broadcast(context.is_main and not all_square(runs["tile"])):
        runs["squash"] = settings.run_settings("squash").resolve()
        encode(runs["squash"], rescore, context)
    return score_and_compare(settings, runs, rescore) if context.is_main else ""


def encode(settings: Settings, rescore: bool, context: DistributedContext) -> None:
    """Start or resume an encoding run.

    Categories that are still to be scored (with `rescore`, all) but whose features were deleted are
    first marked as unfinished, so that the run encodes the missing images again.
    """
    if context.is_main:
        resolve_device(settings.device, settings.deterministic)  # raises before records are deleted
        folder = Path(settings.result_dir)
        scored = set() if rescore else read_finished(folder.parent).keys()
        if encoded := read_finished(folder).keys() - scored:
            experiment = plan_benchmark(settings)
            tasks = [task for task in experiment.tasks if task.category in encoded]
            source = locate_clip(settings.model, settings.pretrained)
            with lock_folder(folder):
                features = find_features(settings, experiment, source, tasks, SINGLE_PROCESS)
                for task in tasks:
                    if not features.missing.isdisjoint(images_of([task])):
                        (folder / "done" / f"{task.category}.json").unlink()
    context.barrier()
    benchmark.run(settings, context=context)


def check_settings(path: Path, settings: AblationSettings) -> bool:
    """Return whether MULTI_CROPS has changed, so that all variants must be scored again.

    Raises `InputError`, before anything is encoded, if the results in the folder are of settings
    that differ in another respect.
    """
    if not (path / "settings.json").exists():
        return False
    earlier = read_json(path / "settings.json", "settings")["settings"]
    current = json.loads(json.dumps(asdict(settings)))
    names = current.keys() - {*NOT_FINGERPRINTED, "order", "multi_crops"}
    values = [{name: record.get(name) for name in names} for record in (earlier, current)]
    if changes := describe_changes(*values, names):
        raise InputError(
            f"{summarise_changes(changes)}: choose {ANOTHER_FOLDER}"
            f"{alternative_to_another_folder(path)}"
        )
    return sorted(earlier["multi_crops"]) != sorted(current["multi_crops"])


def all_square(settings: Settings) -> bool:
    """Return whether all reference images and test images of a finished run are square."""
    scores = (Path(settings.result_dir) / "scores").glob("*.npz")
    sizes = (size for path in scores for size in load_arrays(path, ["size"])["size"].tolist())
    if not all(height == width for height, width in sizes):
        return False
    experiment = plan_benchmark(settings)
    for sample in (sample for task in experiment.tasks for sample in task.references):
        with open_image(experiment.root / sample.image) as image:
            if image.height != image.width:
                return False
    return True


def score_and_compare(settings: AblationSettings, runs: Runs, rescore: bool) -> str:
    """Score and evaluate the unfinished categories; then write all tables and pages.

    With `rescore`, no category counts as finished.
    """
    path, clock = Path(runs["tile"].result_dir).parent, Stopwatch()
    variants = [*corners(tuple(runs)), *departures(runs["tile"].scales, settings.multi_crops)]
    with log_to_console(settings.quiet), lock_folder(path), log_to_file(path / "run.log"):
        if rescore:
            for record in [*(path / "done").glob("*.json"), path / "settings.json"]:
                record.unlink()
        folder = open_folder(path, settings, runs, variants)
        clock.add_earlier(*folder.earlier_times())
        score_categories(folder, runs, variants, clock)
        order = [name for name in settings.order if name != "resize" or len(runs) > 1]
        page = compare(folder, variants, order)
        folder.write_times(clock)
        log.info(f"\n{page.rstrip()}")
        log_results(path, "ablation.html")
    return page


def open_folder(
    path: Path, settings: AblationSettings, runs: Runs, variants: Sequence[Variant]
) -> ResultFolder:
    """Open the result folder; its record is that of the first encoding run, with these settings."""
    keys = "title", "categories", "notes", "weights", "device", "processes", "fingerprint"
    record = read_json(Path(runs["tile"].result_dir) / "settings.json", *keys)
    record = {key: record[key] for key in keys}
    fingerprint = record.pop("fingerprint")
    fingerprint["variants"] = {variant.name: variant.kind for variant in variants}
    return ResultFolder(path, record | {"settings": asdict(settings)}, fingerprint)


def score_categories(
    folder: ResultFolder, runs: Runs, variants: Sequence[Variant], clock: Stopwatch
) -> None:
    """Score every unfinished category; worker processes evaluate it while the next is scored."""
    tile, finished = runs["tile"], folder.finished()
    eval_size = folder.record["settings"]["eval_size"]
    experiment = plan_benchmark(tile)
    tasks = [task for task in experiment.tasks if task.category not in finished]
    if not tasks:
        return
    with count_finished(folder.path, experiment.tasks), worker_pool(tile.num_workers) as pool:
        with clock.stage("start-up"):
            source = locate_clip(tile.model, tile.pretrained)
            clip = build_clip(source, text_only=True)
            device = resolve_device(tile.device, tile.deterministic)
            to_device(clip.model, device, tile.precision)
            features = {
                resize: find_features(settings, experiment, source, tasks, SINGLE_PROCESS)
                for resize, settings in runs.items()
            }
        waiting: deque[tuple[CategoryTask, list[Callable]]] = deque()
        for task in tasks:
            pending = []
            for resize, settings in runs.items():
                stored = StoredCategory(task, settings, eval_size, features[resize], device)
                group = [v for v in variants if v.protocol["resize"] == resize]
                results = score_category(group, stored, settings, clip, clock)
                for number, result in enumerate(results):
                    name = folder.path / f".{task.category}-{resize}-{number}"
                    processes = tile.num_workers if pool else 1
                    pending.append(start_evaluation(result, pool, processes, name, clock))
            log.info(f"{task.category}: scored in {len(variants)} variants")
            waiting.append((task, pending))
            if len(waiting) > MAX_WAITING:
                finish_category(folder, *waiting.popleft(), clock)
        while waiting:
            finish_category(folder, *waiting.popleft(), clock)


def start_evaluation(
    result: VariantResult, pool: Executor | None, processes: int, name: Path, clock: Stopwatch
) -> Callable[[], list[tuple]]:
    """Evaluate a result, in the pool's worker processes if there is one.

    Returns a function that waits for the metrics and returns them as `metric_rows` does; it keeps
    no maps in memory. The paths of temporary files start with `name`.
    """
    columns, indices = result.distinct()
    variants, shot_settings = result.variants, result.task.shot_settings
    batches: list[Future] = []
    for number, call in enumerate(result.calls(columns, processes)):
        path = name.with_name(f"{name.name}-{number}.part")
        store_call(path, call)
        if pool is not None:
            batches.append(pool.submit(call_stored, path))
            continue
        batches.append(Future())
        batches[-1].set_result(call_stored(path))

    def wait() -> list[tuple]:
        for batch in batches:
            clock.add(batch.result()[1], WORKERS if pool else "")
        metrics = [row for batch in batches for row in batch.result()[0]]
        return metric_rows(variants, shot_settings, metrics, indices)

    return wait


def finish_category(
    folder: ResultFolder,
    task: CategoryTask,
    pending: Sequence[Callable[[], list[tuple]]],
    clock: Stopwatch,
) -> None:
    """Wait for the metrics of a category and mark it as finished."""
    with clock.stage("wait for workers"), worker_errors():
        metrics = [row for rows in pending for row in rows()]
    references = reference_rows(task.category, task.shot_settings)
    folder.finish(task.category, {"metrics": metrics, "references": references})
    folder.write_times(clock)


def compare(folder: ResultFolder, variants: Sequence[Variant], order: Sequence[str]) -> str:
    """Write ablation.csv and the pages from the finished categories; return the Markdown."""
    from utils.ablation.tables import Ablation, describe  # these import Jinja
    from utils.report.ablation import write_pages

    finished = folder.finished()
    table = long_form(finished, variants)
    write_text(folder.path / "ablation.csv", table.to_csv(index=False, lineterminator="\n"))
    record = folder.record | {"finished": list(finished)}
    steps = effects(table, variants, order)
    steps = steps[(steps["shots"] > 0) | (steps["switch"] != FEW_SHOT_SWITCH)]
    return write_pages(folder.path, describe(Ablation(record, steps, means(table), variants)))

"""Set up a run: lock, log, clock, model, result folder and feature stream."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from models.clip.device import check_precision, describe_device, resolve_device, to_device
from models.clip.encoder import WindowedEncoder
from models.clip.features import EXACT
from models.clip.text import find_truncated
from models.clip.weights import LoadedClip, Weights, build_clip, describe_model, locate_clip
from models.methods import ABILITIES, Method, WinClip, check_checkpoint, load_method
from models.prompts import prompt_ensemble, spaced_words
from utils.cli import offers
from utils.distributed.context import DistributedContext
from utils.errors import InputError, Interrupted
from utils.experiment.notes import notes_on_settings, notes_on_weights
from utils.experiment.plan import CategoryTask, Experiment, images_of
from utils.experiment.settings import Settings
from utils.features.find import find_features
from utils.log import log, log_to_console, log_to_file, progress_bar
from utils.results.folder import ResultFolder, check_writable, lock_folder, read_finished
from utils.results.methods import method_name
from utils.run.stream import FeatureStream, gpu_errors, make_loader
from utils.stopwatch import Stopwatch
from utils.workers import reuse_freed_memory, worker_pool

if TYPE_CHECKING:  # only runs with kept features load it
    from utils.features.kept import KeptFeatures


@dataclass(frozen=True)
class Session:
    """A run that is ready to score its categories."""

    settings: Settings
    experiment: Experiment
    context: DistributedContext
    pending: list[CategoryTask]  # the categories that are not finished yet, the largest first
    method: Method
    stream: FeatureStream
    folder: ResultFolder | None  # None in all processes but the main one
    clock: Stopwatch
    progress: tqdm  # counts images
    pool: Executor | None = None  # worker processes that write finished categories


@contextmanager
def open_session(
    settings: Settings, experiment: Experiment, context: DistributedContext
) -> Iterator[Session]:
    """Lock the result folder, start the log, load the model and open the stream of images.

    `settings` must be resolved. The lock and the log are released when the block ends, however it
    ends. Raises `InputError` if the folder is in use, cannot be written or was made with other
    settings, and if the model or the device is not available.
    """
    clock = Stopwatch()
    with ExitStack() as stack:
        stack.enter_context(log_to_console(settings.quiet or not context.is_main))
        pool, finished = None, []
        if context.is_main:
            pool = stack.enter_context(locked_folder(settings))  # before CUDA starts
            finished = list(read_finished(Path(settings.result_dir)))
        stack.enter_context(gpu_errors(settings))  # within the log, which records its sentence
        stack.enter_context(count_finished(settings.result_dir, experiment.tasks))
        reuse_freed_memory()
        finished = context.broadcast(finished)
        pending = [task for task in experiment.tasks if task.category not in finished]
        pending.sort(key=len, reverse=True)  # evaluating the last one cannot overlap encoding
        shards = [task.shard(context) for task in pending]
        with clock.stage("start-up"):
            clip, method, kept_features = load(settings, experiment, shards, context)
        folder = None
        if context.is_main:
            precision = kept_features.store.precision if kept_features else EXACT
            folder = open_folder(settings, experiment, clip, method, precision, context.world_size)
            clock.add_earlier(*folder.earlier_times())
        if kept_features and settings.features == "keep":
            kept_features.prepare(images_of(shards), method.encoder, context)
        for task in experiment.tasks:
            if task.category in finished:
                log.info(f"{task.category}: already finished, skipped")
        complete = kept_features and not kept_features.missing
        variants = () if complete else settings.encoded_crops
        loader = make_loader(settings, experiment, shards, method.image_size, variants)
        progress = progress_bar(
            total=sum(map(len, pending)),
            unit="image",
            smoothing=0.1,
            disable=settings.quiet or not context.is_main or not pending,
        )
        tf32 = settings.precision == "tf32"
        yield Session(
            settings=settings,
            experiment=experiment,
            context=context,
            pending=pending,
            method=method,
            stream=FeatureStream(loader, clip, method, clock, kept_features, tf32),
            folder=folder,
            clock=clock,
            progress=progress,
            pool=pool,
        )


@contextmanager
def locked_folder(settings: Settings) -> Iterator[Executor | None]:
    """Lock the result folder and log to it; yield the worker processes that write results."""
    path = Path(settings.result_dir)
    check_writable(path)
    # The lock is released when no worker can write any more.
    with lock_folder(path), worker_pool(pool_size(settings)) as pool, log_to_file(path / "run.log"):
        yield pool


@contextmanager
def count_finished(result_dir: str | Path, tasks: Sequence[CategoryTask]) -> Iterator[None]:
    """Raise `Interrupted`, with the number of finished categories, if the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        records = (Path(result_dir) / "done" / f"{task.category}.json" for task in tasks)
        count = sum(record.exists() for record in records)
        raise Interrupted(
            f"interrupted; categories finished: {count} of {len(tasks)}; start the same command "
            "again to score the rest",
            *interrupt.args,
        ) from interrupt


def load(
    settings: Settings,
    experiment: Experiment,
    shards: Sequence[CategoryTask],
    context: DistributedContext,
) -> tuple[LoadedClip, Method, "KeptFeatures | None"]:
    """Load the model and the method, and find the kept features of this process's images.

    WinCLIP has no encoder if no process needs it. Raises `InputError` for a checkpoint or weights
    that cannot be used, and for a prompt that is too long.
    """
    check_checkpoint(settings.method, settings.checkpoint, settings.dataset)  # before downloads
    log.info(f"loading {settings.model}, {settings.pretrained}")
    source = locate_clip(settings.model, settings.pretrained)
    kept_features = find_features(settings, experiment, source, shards, context)
    complete = kept_features is not None and not kept_features.missing
    text_only = all(context.all_gather(complete))
    device = claim_device(settings, context, text_only)
    clip = build_clip(source, text_only)
    if ABILITIES[settings.method].names_category:
        for task in experiment.tasks:
            check_prompts(settings, task.category, clip)
    prepare = partial(to_device, clip.model, device, settings.precision)
    if settings.method != "winclip":
        given = settings.checkpoint, settings.dataset
        return clip, load_method(settings.method, clip, *given, prepare), kept_features
    prepare()
    reads_patches = settings.few_shot or settings.features == "keep"
    return clip, winclip_method(settings, clip, reads_patches), kept_features


def pool_size(settings: Settings) -> int:
    """Return the number of worker processes that write finished categories.

    On a CPU there is at most one, because the encoder needs the cores.
    """
    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    return min(settings.num_workers, 1) if on_cpu else settings.num_workers


def compose_prompts(settings: Settings, category: str) -> tuple[list[str], list[str]]:
    """Return the normal and the anomalous prompts of a category."""
    name = spaced_words(category) if settings.class_words else category
    return prompt_ensemble(name, settings.templates, *settings.extra_states(category))


def check_prompts(settings: Settings, category: str, clip: LoadedClip) -> None:
    """Raise `InputError` if a prompt of a category has more tokens than the text tower reads."""
    normal, anomalous = compose_prompts(settings, category)
    if prompt := find_truncated(clip.tokenizer, [*normal, *anomalous]):
        raise InputError(
            f'{category[:40]}: the prompt "{prompt[:60]}..." has more tokens than CLIP reads; '
            "shorten the class name, to a word or two of English, or the additional states"
        )


def claim_device(settings: Settings, context: DistributedContext, text_only: bool) -> torch.device:
    """Return this process's device; unless `text_only`, check that it supports PRECISION."""
    context.claim_device(settings.device)
    device = resolve_device(settings.device, settings.deterministic)
    warning = "" if text_only else check_precision(device, settings.precision)
    if warning:
        log.info(f"warning: {warning}")
    return device


def winclip_method(settings: Settings, clip: LoadedClip, reads_patches: bool) -> WinClip:
    """Return WinCLIP; without an encoder if the model has no vision tower.

    Its features have patch tokens only if `reads_patches`: zero-shot scores do not need them.
    """
    visual, encoder = clip.model.visual, None
    if visual is not None:
        patch_tokens = settings.patch_tokens if reads_patches else None
        tf32 = settings.precision == "tf32"
        encoder = WindowedEncoder(visual, settings.scales, patch_tokens, tf32)
    return WinClip(
        clip,
        encoder,
        prompts=partial(compose_prompts, settings),
        temperature=settings.temperature,
        normalise_prompts=settings.normalise_prompts,
        crop_average=settings.multi_crop_average,
        has_maps=settings.maps,
    )


def open_folder(
    settings: Settings,
    experiment: Experiment,
    clip: LoadedClip,
    method: Method,
    precision: str,
    processes: int,
) -> ResultFolder:
    """Open the result folder and record title, settings, notes, weights and device.

    `precision` is the one in which features are kept.
    """
    weights, checkpoint = clip.weights, method.checkpoint
    fingerprint = settings.fingerprint() | describe_model(settings.model, clip)
    fingerprint["device"] = method.device.type
    if checkpoint:
        fingerprint["checkpoint"] = checkpoint.sha256 or checkpoint.description
    if precision != EXACT:  # left out for exact features, as in older folders
        fingerprint["features_precision"] = precision
    record = {
        "title": experiment.title,
        "categories": experiment.categories,
        "draws_references": experiment.draws_references,
        "settings": asdict(settings),
        "notes": [
            *notes_on_weights(weights, checkpoint),
            *method.notes,
            *experiment.notes,
            *notes_on_settings(settings, precision),
        ],
        "weights": describe_weights(weights),
        **({"checkpoint": describe_weights(checkpoint)} if checkpoint else {}),
        "device": describe_device(method.device),
        "processes": processes,
    }
    folder = ResultFolder(Path(settings.result_dir), record, fingerprint | experiment.fingerprint)
    log_model(settings, record, clip, method.image_size)
    for line in [*(f"note: {note}" for note in record["notes"]), *experiment.messages]:
        log.info(line)
    return folder


def log_model(settings: Settings, record: Mapping, clip: LoadedClip, side: int) -> None:
    """Log weights, checkpoint, preprocessing, method and device; `side`: input pixels."""
    for name in ("weights", "checkpoint"):
        if file := record.get(name):
            log.info(f"{name}: {file['description']}")
            if file["sha256"]:
                log.debug(f"sha256 of the {name}: {file['sha256']}")
    log.info(describe_resizing(settings, side))
    log.debug(f"images normalised with mean {clip.mean}, standard deviation {clip.std}")
    protocol = f", protocol {settings.protocol}" if settings.method == "winclip" else ""
    name = method_name(record["settings"])
    log.info(f"method: {name}{protocol}, {settings.precision} on {record['device']}")


def describe_resizing(settings: Settings, side: int) -> str:
    """Describe how images are resized to the encoder's input of `side` pixels."""
    if settings.resize == "squash":
        return f"images are squashed to {side} x {side} pixels"
    if settings.resize == "centre_crop":
        return f"images are resized to {side} pixels at their shorter side and cropped to a square"
    if settings.tile:
        tiles = f"square tiles of {settings.tile} pixels, or of their shorter side if it is less"
        return f"images are cut into {tiles}, each resized to {side}"
    advice = "; --tile N keeps small defects" if offers("tile") else ""
    return f"the shorter side of images is resized to {side} pixels{advice}"


def describe_weights(weights: Weights) -> dict:
    """Return the entry of settings.json that identifies weights."""
    return {"sha256": weights.sha256, "description": weights.description}

"""Set up a run: lock, log, clock, model, result folder and feature stream."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from models.device import check_precision, resolve_device, to_device
from models.encoder import WindowedEncoder
from models.prompts import prompt_ensemble, spaced_words
from models.text import encode_states, find_truncated
from models.weights import LoadedClip, load_clip
from models.winclip import TextBank
from utils.errors import InputError
from utils.files import sha256_of
from utils.log import log, log_to_console, log_to_file, progress_bar
from utils.results.folder import ResultFolder, check_writable, describe_device, lock_folder
from utils.run.distributed import DistributedContext, reuse_freed_memory, worker_pool
from utils.run.plan import CategoryTask, Experiment
from utils.run.settings import Settings
from utils.run.stream import FeatureStream, make_loader
from utils.stopwatch import Stopwatch


@dataclass(frozen=True)
class Session:
    """A run that is ready to score its categories."""

    settings: Settings
    experiment: Experiment
    context: DistributedContext
    pending: list[CategoryTask]  # the categories that are not finished yet
    clip: LoadedClip
    stream: FeatureStream
    folder: ResultFolder | None  # None in all processes but the main one
    clock: Stopwatch
    progress: tqdm  # counts images
    pool: Executor | None = None  # worker processes that write finished categories

    def text_bank(self, category: str) -> TextBank:
        """Return the text bank of a category, built from its prompt ensemble."""
        settings = self.settings
        with self.clock.stage("text"):
            prompts = compose_prompts(settings, category)
            normal, anomalous = encode_states(self.clip.model, self.clip.tokenizer, *prompts)
            return TextBank.from_prompts(
                normal, anomalous, settings.temperature, settings.normalise_prompts
            )


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
        pool = None
        if context.is_main:
            path = Path(settings.result_dir)
            check_writable(path)
            stack.enter_context(lock_folder(path))  # released when no worker can write any more
            pool = stack.enter_context(worker_pool(pool_size(settings)))  # before CUDA starts
            stack.enter_context(log_to_file(path / "run.log"))
        reuse_freed_memory()
        log.info(f"loading {settings.model}, {settings.pretrained}")
        with clock.stage("start-up"):
            clip, encoder = load_encoder(settings, context)
        for task in experiment.tasks:
            check_prompts(settings, task.category, clip)
        folder = None
        if context.is_main:
            folder = open_folder(settings, experiment, clip, encoder.device, context.world_size)
            clock.add_earlier(*folder.earlier_times())
        finished = context.broadcast(list(folder.finished()) if folder else [])
        pending = [task for task in experiment.tasks if task.category not in finished]
        for task in experiment.tasks:
            if task.category in finished:
                log.info(f"{task.category}: already finished, skipped")
        shards = [task.shard(context) for task in pending]
        loader = make_loader(settings, experiment, shards, clip.image_size)
        progress = progress_bar(
            total=sum(map(len, pending)),
            unit="image",
            smoothing=0.1,
            disable=settings.quiet or not context.is_main or not pending,
        )
        stream = FeatureStream(loader, clip, encoder, clock)
        yield Session(
            *(settings, experiment, context, pending, clip),
            *(stream, folder, clock, progress, pool),
        )


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
            f'CLASS_NAME: "{category[:40]}" is too long: CLIP would cut off the prompt '
            f'"{prompt[:40]}...", which has too many tokens; use a word or two of English'
        )


def load_encoder(
    settings: Settings, context: DistributedContext
) -> tuple[LoadedClip, WindowedEncoder]:
    """Load the model onto this process's device."""
    context.claim_device(settings.device)
    device = resolve_device(settings.device, settings.deterministic)
    if warning := check_precision(device, settings.precision):
        log.info(f"warning: {warning}")
    clip = load_clip(settings.model, settings.pretrained)
    to_device(clip.model, device, settings.precision)
    tf32 = settings.precision == "tf32"
    encoder = WindowedEncoder(clip.model.visual, settings.scales, settings.patch_tokens, tf32)
    return clip, encoder


def open_folder(
    settings: Settings,
    experiment: Experiment,
    clip: LoadedClip,
    device: torch.device,
    processes: int,
) -> ResultFolder:
    """Open the result folder and record title, settings, notes, weights and device."""
    model = sha256_of(Path(settings.model)) if settings.model.endswith(".json") else settings.model
    weights = clip.weights
    fingerprint = settings.fingerprint() | {
        "model": model,
        "weights": weights.sha256 or weights.description,
        "normalisation": [clip.mean, clip.std],
        "quick_gelu": clip.quick_gelu,
        "device": device.type,
    }
    notes = notes_on_weights(clip) + experiment.notes
    record = {
        "title": experiment.title,
        "categories": experiment.categories,
        "draws_references": experiment.draws_references,
        "settings": asdict(settings),
        "notes": notes,
        "weights": {"sha256": weights.sha256, "description": weights.description},
        "device": describe_device(device),
        "processes": processes,
    }
    folder = ResultFolder(Path(settings.result_dir), record, fingerprint | experiment.fingerprint)
    log.info(f"weights: {weights.description}")
    if weights.sha256:
        log.info(f"sha256 of the weights: {weights.sha256}")
    log.info(describe_resizing(settings, clip.image_size))
    log.info(f"images normalised with mean {clip.mean}, standard deviation {clip.std}")
    log.info(f"protocol: {settings.protocol}, {settings.precision} on {record['device']}")
    for note in notes:
        log.info(f"note: {note}")
    for message in experiment.messages:
        log.info(message)
    return folder


def describe_resizing(settings: Settings, side: int) -> str:
    """Return to which size images are resized for the encoder, whose input has `side` pixels."""
    if settings.resize == "squash":
        return f"images are squashed to {side} x {side} pixels"
    if settings.tile:
        return f"images are cut into tiles of {settings.tile} pixels, each resized to {side}"
    return f"the shorter side of images is resized to {side} pixels; --tile N keeps small defects"


def notes_on_weights(clip: LoadedClip) -> list[str]:
    """Return the warnings about the model to show beside every result."""
    if clip.weights.random:
        return ["RANDOM WEIGHTS: the numbers only show that the program runs"]
    if clip.weights.demo:
        return ["DEMO MODEL: trained only on rendered images; use it to try out the program"]
    return []

"""Set up a run: lock, log, clock, model, result folder and feature stream."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.decode import open_image
from datasets.images import Resize
from datasets.tiles import multi_crop, tile_grid, tile_side
from models.device import check_precision, describe_device, resolve_device, to_device
from models.encoder import WindowedEncoder
from models.prompts import prompt_ensemble, spaced_words
from models.text import encode_states, find_truncated
from models.weights import ClipSource, LoadedClip, build_clip, locate_clip
from models.winclip import TextBank
from utils.errors import InputError
from utils.files import sha256_of
from utils.log import log, log_to_console, log_to_file, progress_bar
from utils.results.features import (
    EXACT,
    PRECISIONS,
    FeatureStore,
    KeptFeatures,
    find_kept,
    open_stores,
)
from utils.results.features import FOLDER as FEATURES_FOLDER
from utils.results.folder import (
    ResultFolder,
    check_writable,
    lock_folder,
    read_finished,
)
from utils.run.distributed import DistributedContext, reuse_freed_memory, worker_pool
from utils.run.plan import CategoryTask, Experiment
from utils.run.settings import Settings
from utils.run.stream import FeatureStream, make_loader
from utils.stopwatch import Stopwatch

MAX_MEASURED = 100  # images whose number of tiles is read to estimate the size of kept features


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
            source = locate_clip(settings.model, settings.pretrained)
            finished = context.broadcast(list(read_finished(path)) if context.is_main else [])
            pending = [task for task in experiment.tasks if task.category not in finished]
            shards = [task.shard(context) for task in pending]
            kept = find_features(settings, experiment, source, shards, context)
            complete = kept is not None and not kept.missing(images_of(shards))
            text_only = all(context.all_gather(complete))
            clip, encoder = load_encoder(settings, context, source, text_only)
        for task in experiment.tasks:
            check_prompts(settings, task.category, clip)
        folder = None
        if context.is_main:
            folder = open_folder(settings, experiment, clip, kept, context.world_size)
            clock.add_earlier(*folder.earlier_times())
        if kept and kept.writer:
            prepare_store(kept, settings, shards, encoder, context)
        for task in experiment.tasks:
            if task.category in finished:
                log.info(f"{task.category}: already finished, skipped")
        variants = () if complete else settings.encoded_crops
        loader = make_loader(settings, experiment, shards, clip.image_size, variants)
        progress = progress_bar(
            total=sum(map(len, pending)),
            unit="image",
            smoothing=0.1,
            disable=settings.quiet or not context.is_main or not pending,
        )
        stream = FeatureStream(loader, clip, encoder, clock, kept)
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


def find_features(
    settings: Settings,
    experiment: Experiment,
    source: ClipSource,
    shards: Sequence[CategoryTask],
    context: DistributedContext,
) -> KeptFeatures | None:
    """Find the kept features of this process's images; None if the run has no store.

    Raises `InputError` for features of other settings or images in the run's own folder, or in the
    one that FEATURES names.
    """
    own, keep = Path(settings.result_dir) / FEATURES_FOLDER, settings.features == "keep"
    named = settings.features not in ("discard", "keep")
    encoding = describe_encoding(settings, experiment, source)
    stores = []
    if context.is_main:
        folders = {own: True}  # in the order of preference; maps to whether they must fit
        folders |= {folder: named for folder in settings.features_folders() if folder != own}
        precision = settings.features_precision if keep else None
        images = images_of(experiment.tasks)
        stores = open_stores(folders, encoding, precision, settings.resize, images)
        if named and not stores:
            raise InputError(
                f'FEATURES = "{settings.features}": no features of these images are kept there; '
                'give "discard", "keep" or the result folder of a run with --features keep'
            )
    stores = context.broadcast(stores)
    writer = None
    if keep:
        encoding["features_precision"] = settings.features_precision
        writer = FeatureStore(own, encoding, settings.resize)
    if not (stores or keep):
        return None
    images = images_of(shards)
    store_of = find_kept(stores, images, experiment.root)
    variants = settings.encoded_crops
    without_crops = {
        image
        for image, store in store_of.items()
        if variants and not store.has_crops(image, variants)
    }
    counts = Counter(store.folder for store in store_of.values())
    shares = context.all_gather((len(images), len(without_crops), counts))
    total, lacking = (sum(share[index] for share in shares) for index in range(2))
    for folder, count in sum((counts for *_, counts in shares), Counter()).items():
        log.info(f"features of {count} of {total} images are kept in {folder}")
    if lacking:
        log.info(f"{lacking} of them lack crops ({' '.join(variants)}), which are encoded now")
    return KeptFeatures(
        *(store_of, writer or stores[0], writer, experiment.root),
        *(settings.patch_tokens, settings.multi_crop, variants, without_crops),
    )


def describe_encoding(settings: Settings, experiment: Experiment, source: ClipSource) -> dict:
    """Return what features depend on besides the images: a JSON object."""
    return {
        **describe_model(settings, source),
        "precision": settings.precision,
        "scales": list(settings.scales),
        "tile": settings.tile,
        "exif": experiment.apply_exif,
        "depth": {name: asdict(white) for name, white in experiment.white.items()},
    }


def describe_model(settings: Settings, source: ClipSource | LoadedClip) -> dict:
    """Return what identifies the model in a fingerprint."""
    model = sha256_of(Path(settings.model)) if settings.model.endswith(".json") else settings.model
    return {
        "model": model,
        "weights": source.weights.sha256 or source.weights.description,
        "normalisation": [source.mean, source.std],
        "quick_gelu": source.quick_gelu,
    }


def prepare_store(
    kept: KeptFeatures,
    settings: Settings,
    shards: Sequence[CategoryTask],
    encoder: WindowedEncoder | None,
    context: DistributedContext,
) -> None:
    """Create the store that gets new features and announce its size, in the main process.

    Raises `InputError` if the disk has too little space.
    """
    images = kept.missing(images_of(shards))
    count = sum(context.all_gather(len(images)))
    if not count:
        log.info("there is nothing to encode, so no features are written")
    if not context.is_main or not count:
        return
    writer = kept.writer
    FeatureStore.create(writer.folder, writer.encoding, writer.resize, encoder.visual.ln_post)
    paths = [kept.root / image for image in images[:: len(images) // MAX_MEASURED + 1]]
    tiles = mean_tiles(paths, settings.resize, settings.tile)
    crops = sum(len(multi_crop(name, encoder.visual.image_size[0])) for name in kept.variants)
    size = int(count * tiles * bytes_per_tile(encoder, writer.precision, crops))
    free = shutil.disk_usage(writer.folder).free
    text = f"features of {count} images take about {describe_bytes(size)} in {writer.precision}"
    if size > free:
        raise InputError(
            f"{text}, but {writer.folder} has only {describe_bytes(free)} left; free some space, "
            "choose a folder on another disk with --result-dir, or do not keep features"
        )
    log.info(f"{text}, to be written to {writer.folder} ({describe_bytes(free)} free)")


def images_of(tasks: Sequence[CategoryTask]) -> list[str]:
    """Return the paths of all images of some tasks."""
    return [s.image for task in tasks for s in (*task.references, *task.tests)]


def mean_tiles(paths: Sequence[Path], resize: Resize, tile: int) -> float:
    """Return the mean number of tiles of some images; unreadable ones count as one tile."""
    counts = [1]
    for path in paths if resize == "tile" else ():
        with suppress(InputError), open_image(path) as image:
            height, width = image.height, image.width
            counts.append(math.prod(tile_grid(height, width, tile_side(height, width, tile))))
    return sum(counts[1:] or counts) / max(1, len(counts) - 1)


def bytes_per_tile(encoder: WindowedEncoder, precision: str, crops: int) -> int:
    """Return the size of the kept features of one tile with some crops."""
    (patches, width), embedding = encoder.visual.positional_embedding[1:].shape, encoder.visual.proj
    sequences = sum(count for count, _ in encoder.group_shapes)
    values = (sequences + crops) * embedding.shape[1] + 2 * patches * width
    return values * PRECISIONS[precision].itemsize


def describe_bytes(size: int) -> str:
    """Return a size in MB or GB.

    >>> describe_bytes(1_300_000), describe_bytes(2_500_000_000)
    ('1.3 MB', '2.5 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def load_encoder(
    settings: Settings, context: DistributedContext, source: ClipSource, text_only: bool
) -> tuple[LoadedClip, WindowedEncoder | None]:
    """Load the model onto this process's device; without an encoder if `text_only`."""
    context.claim_device(settings.device)
    device = resolve_device(settings.device, settings.deterministic)
    warning = "" if text_only else check_precision(device, settings.precision)
    if warning:
        log.info(f"warning: {warning}")
    clip = build_clip(source, text_only)
    to_device(clip.model, device, settings.precision)
    if text_only:
        return clip, None
    tf32 = settings.precision == "tf32"
    encoder = WindowedEncoder(clip.model.visual, settings.scales, settings.patch_tokens, tf32)
    return clip, encoder


def open_folder(
    settings: Settings,
    experiment: Experiment,
    clip: LoadedClip,
    kept: KeptFeatures | None,
    processes: int,
) -> ResultFolder:
    """Open the result folder and record title, settings, notes, weights and device."""
    weights, device = clip.weights, next(clip.model.parameters()).device
    precision = kept.rounding.precision if kept else EXACT
    fingerprint = settings.fingerprint() | describe_model(settings, clip)
    fingerprint |= {"device": device.type, "features_precision": precision}
    notes = notes_on_weights(clip) + experiment.notes
    if precision != EXACT:
        notes.append(f"FEATURES KEPT IN {precision.upper()}: scores are those of rounded features")
    if settings.multi_crop != "none":
        crops = f'MULTI-CROP "{settings.multi_crop}", averaging {settings.multi_crop_average}'
        notes.append(f"{crops}: a hypothesis, because the paper does not define this step")
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

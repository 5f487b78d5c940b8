"""Find the kept features of a run's images, and prepare the store that gets new ones."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datasets.tiles import multi_crop
from models.clip.encoder import WindowedEncoder
from models.clip.weights import ClipSource, LoadedClip
from utils.distributed import DistributedContext
from utils.errors import InputError
from utils.experiment.plan import CategoryTask, Experiment
from utils.experiment.settings import Settings
from utils.features.kept import (
    KeptFeatures,
    explain_no_features,
    find_kept,
    log_shares,
    open_stores,
    required_precision,
)
from utils.features.space import MAX_MEASURED, bytes_per_tile, check_space, mean_tiles
from utils.features.store import EXACT, FeatureStore
from utils.files import sha256_of
from utils.log import log
from utils.results.folder import FEATURES_FOLDER


def find_features(
    settings: Settings,
    experiment: Experiment,
    source: ClipSource,
    shards: Sequence[CategoryTask],
    context: DistributedContext,
) -> KeptFeatures | None:
    """Find the kept features of this process's images; None if the run has no store.

    Raises `InputError` for features of other settings or images in the run's result folder, or in
    the one that FEATURES names.
    """
    encoding = describe_encoding(settings, experiment, source)
    stores, precision = [], EXACT
    if context.is_main:
        stores, precision = find_stores(settings, encoding, images_of(experiment.tasks))
    stores, precision = context.broadcast((stores, precision))
    if precision == EXACT and settings.features != "keep" and not stores:
        return None
    encoding["features_precision"] = precision
    store = FeatureStore(Path(settings.result_dir) / FEATURES_FOLDER, encoding, settings.resize)
    images = images_of(shards)
    store_of, reasons = find_kept(stores, images, experiment.root)
    variants = settings.encoded_crops
    without_crops = {
        image
        for image, source_store in store_of.items()
        if variants and not source_store.has_crops(image, variants)
    }
    kept_features = KeptFeatures(
        *(store_of, store, store if settings.features == "keep" else None, experiment.root),
        *(settings.patch_tokens, settings.multi_crop, settings.scales, variants, without_crops),
    )
    counts = Counter(store.folder for store in store_of.values())
    log_shares(context.all_gather((len(images), len(without_crops), counts, reasons)), variants)
    return kept_features


def find_stores(
    settings: Settings, encoding: dict, images: Sequence[str]
) -> tuple[list[FeatureStore], str]:
    """Return the stores with features of the images, and the precision of scored features.

    Raises `InputError` if the folder that FEATURES names has no features of them.
    """
    result_dir = Path(settings.result_dir)
    precision = required_precision(result_dir, settings.features, settings.features_precision)
    stores = open_stores(settings.features_folders(), encoding, precision, settings.resize, images)
    folder = settings.named_features
    if folder and folder not in [store.folder for store in stores]:
        raise InputError(
            f'FEATURES = "{settings.features}": {explain_no_features(folder)}; '
            'give "auto", "keep", "off" or the result folder of a run with --features keep'
        )
    return stores, precision or (stores[0].precision if stores else EXACT)


def describe_encoding(settings: Settings, experiment: Experiment, source: ClipSource) -> dict:
    """Return what features depend on besides the images: a JSON object."""
    scales = {"scales": list(settings.scales)} if settings.maps else {}  # any scales are used
    return {
        **describe_model(settings, source),
        "precision": settings.precision,
        **scales,
        "tile": settings.tile,
        "exif": experiment.apply_exif,
        # In the order of the categories, not by name: a class name is only a part of the prompts.
        "depth": [asdict(white) for _, white in sorted(experiment.white.items())],
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
    kept_features: KeptFeatures,
    settings: Settings,
    shards: Sequence[CategoryTask],
    encoder: WindowedEncoder | None,
    context: DistributedContext,
) -> None:
    """Create the store that gets new features, after announcing their size, and copy features.

    Those in other folders are copied into it. Raises `InputError` if the disk has too little space.
    """
    images = images_of(shards)
    missing, copied = kept_features.missing(images), kept_features.to_copy(images)
    shares = context.all_gather((len(missing), len(copied)))
    count, copies = map(sum, zip(*shares, strict=True))
    if not count:
        log.info("there is nothing to encode, so no features are computed")
    if context.is_main and count:
        side, writer = encoder.visual.image_size[0], kept_features.writer
        paths = [kept_features.root / image for image in missing]
        tiles = mean_tiles(paths[:: len(paths) // MAX_MEASURED + 1], settings.resize, settings.tile)
        crops = sum(len(multi_crop(name, side)) for name in kept_features.variants)
        check_space(writer, count, tiles * bytes_per_tile(encoder, writer.precision, crops))
    if context.is_main and (count or copies):
        kept_features.create_writer(encoder.visual.ln_post if encoder else None)
    context.barrier()  # no process writes before
    kept_features.copy(copied)
    if copies:
        log.info(f"features of {copies} images are copied to {kept_features.writer.folder}")


def images_of(tasks: Sequence[CategoryTask]) -> list[str]:
    """Return the paths of all images of some tasks."""
    return [s.image for task in tasks for s in (*task.references, *task.tests)]

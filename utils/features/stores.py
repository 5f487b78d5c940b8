"""Find and open the stores of kept features that a run reads, and describe the one it writes."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from datasets.decode import THREADS
from datasets.tiles import MultiCrop, Resize
from models.clip.features import EXACT
from models.clip.weights import ClipSource, describe_model
from utils.cli import label, offers, spell
from utils.distributed.context import DistributedContext
from utils.errors import ANOTHER_FOLDER, InputError
from utils.experiment.plan import CategoryTask, Experiment, images_of
from utils.experiment.settings import Settings
from utils.features.kept import KeptFeatures
from utils.features.store import FeatureStore, read_encoding
from utils.log import log
from utils.results.folder import (
    FEATURES_FOLDER,
    FEATURES_JSON,
    describe_changes,
    holds_results,
    read_json,
)


def open_features(
    settings: Settings,
    experiment: Experiment,
    source: ClipSource,
    shards: Sequence[CategoryTask],
    context: DistributedContext,
) -> KeptFeatures | None:
    """Open the stores of a run that may use kept features, as `find_features` describes."""
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
    store_of, reasons = match_stores(stores, images, experiment.root)
    variants = settings.encoded_crops
    without_crops = frozenset(
        image
        for image, source_store in store_of.items()
        if variants and not source_store.has_crops(image, variants)
    )
    kept_features = KeptFeatures(
        settings=settings,
        root=experiment.root,
        store=store,
        store_of=store_of,
        without_crops=without_crops,
        missing=without_crops.union(image for image in images if image not in store_of),
    )
    counts = Counter(store.folder for store in store_of.values())
    log_counts(context.all_gather((len(images), len(without_crops), counts, reasons)), variants)
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
            f"{spell('features', settings.features)}: {explain_no_features(folder)}; "
            'give "auto", "keep", "off" or the result folder of a run with --features keep'
        )
    return stores, precision or (stores[0].precision if stores else EXACT)


def required_precision(result_dir: Path, features: str, features_precision: str) -> str | None:
    """Return the precision of the features to be scored; None: that of the first store.

    `features` and `features_precision` are the settings. A resumed run goes on as it began. Raises
    `InputError` if FEATURES prevents this.
    """
    required = {"keep": features_precision, "off": EXACT}.get(features)
    path = result_dir / "settings.json"
    if not path.exists() or not holds_results(result_dir):
        return required
    recorded = read_json(path, "fingerprint")["fingerprint"].get("features_precision", EXACT)
    if required not in (None, recorded):
        keeps = features == "keep"
        option = f"--features-precision {recorded}" if keeps else "--features auto"
        name = "features" if offers("features") else "features_precision"
        raise InputError(
            f"{label(name)}: the scores in {result_dir} are those of {recorded} features, "
            f"not {required}; add {option}, or choose {ANOTHER_FOLDER}"
        )
    return recorded


def open_stores(
    folders: Mapping[Path, bool],
    encoding: Mapping,
    precision: str | None,
    resize: Resize,
    images: Collection[str],
) -> list[FeatureStore]:
    """Open the stores of some folders that have features of one or more of the images.

    `folders` maps each folder to whether its features must fit; the log says why others are passed
    over. An `encoding` without scales fits features of any scales. `precision` is that of the
    features; None: that of the first store.
    """
    stores = []
    for folder, strict in folders.items():
        if not (folder / FEATURES_JSON).exists():
            continue
        try:
            earlier = read_encoding(folder)
            current = {"scales": earlier["scales"]} | encoding
            current["features_precision"] = precision or earlier["features_precision"]
            store = FeatureStore(folder, current, resize, strict)
            if not any(has_file(store, image) for image in images):
                continue
            changes = describe_changes(earlier, current, current)
            if changes and not strict:
                raise InputError("; ".join(changes))
            store.check_encoding()
            _ = store.ln_post  # a damaged file is noticed now
        except InputError as error:
            if strict:
                raise
            log.info(f"the features in {folder} are not used: {error}")
            continue
        stores.append(store)
        precision = store.precision
    return stores


def explain_no_features(folder: Path) -> str:
    """Return why none of a run's images have features in the folder that FEATURES names."""
    if not folder.parent.is_dir():
        return f"there is no folder {folder.parent}"
    if not (folder / FEATURES_JSON).exists():
        return f"the run in {folder.parent} has kept no features"
    return f"the features in {folder} are those of other images"


def has_file(store: FeatureStore, image: str) -> bool:
    """Return whether a store has a file for an image, which may be damaged."""
    try:
        return store.find(image) is not None
    except InputError:
        return True


def match_stores(
    stores: Sequence[FeatureStore], images: Sequence[str], root: Path
) -> tuple[dict[str, FeatureStore], list[str]]:
    """Return the first store that has the features of each image; others are left out.

    Also returns why files of stores that are not strict are passed over. `root` is the folder of
    the images. An image file is read once for each store that has a file for it, to compare
    checksums. Raises `InputError` for damaged files and changed images in strict stores.
    """

    def look_up(image: str) -> tuple[FeatureStore | None, list[str]]:
        reasons = []
        for store in stores:
            try:
                if store.has(image, root / image):
                    return store, reasons
            except InputError as error:
                if store.strict:
                    raise
                reasons.append(str(error))
        return None, reasons

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(look_up, images))
    store_of = {i: store for i, (store, _) in zip(images, results, strict=True) if store}
    return store_of, [reason for _, reasons in results for reason in reasons]


def log_counts(
    counts: Sequence[tuple[int, int, Counter, Sequence[str]]], variants: Sequence[MultiCrop]
) -> None:
    """Log from which folders features are read, and how many images have none in any of them.

    The counts of a process are those of its images, of those that lack some of the crops of
    `variants`, and of those in each folder; the reasons why files are passed over come last.
    """
    totals, lacking, by_folder, reasons = zip(*counts, strict=True)
    for folder, count in sum(by_folder, Counter()).items():
        log.info(f"features of {count} of {sum(totals)} images are read from {folder}")
    if messages := [*chain.from_iterable(reasons)]:
        log.info(f"{len(messages)} files of features are not used; the first: {messages[0]}")
    if any(lacking):
        crops = " ".join(variants)
        log.info(f"{sum(lacking)} of them lack crops ({crops}), which are encoded now")
    if with_features := sum(by_folder, Counter()).total():
        log.info(f"{sum(totals) - with_features} images must be encoded")


def describe_encoding(settings: Settings, experiment: Experiment, source: ClipSource) -> dict:
    """Return what features depend on besides the images: a JSON object."""
    scales = {"scales": list(settings.scales)} if settings.maps else {}  # else any scales fit
    encoding = {
        **describe_model(settings.model, source),
        "precision": settings.precision,
        **scales,
        "tile": settings.tile,
        "exif": experiment.apply_exif,
        # In the order of the categories, not by name: a class name is only a part of the prompts.
        "depth": [asdict(white) for _, white in sorted(experiment.white.items())],
    }
    return json.loads(json.dumps(encoding))

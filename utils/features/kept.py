"""Find the kept features of a run's images, read them, and keep new ones."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets.decode import THREADS
from datasets.images import Item, Resize
from datasets.tiles import MultiCrop, distinct_crops, multi_crop
from models.clip.encoder import AllFeatures, PatchTokens
from models.winclip import Features
from utils.errors import ANOTHER_FOLDER, InputError
from utils.features.store import EXACT, FEATURES_JSON, FeatureStore, read_encoding
from utils.files import atomic_path
from utils.log import log
from utils.results.folder import describe_changes, read_json


@dataclass(frozen=True)
class KeptFeatures:
    """The stores of a run, all in one precision."""

    store_of: Mapping[str, FeatureStore]  # of the images that have kept features
    rounding: FeatureStore  # rounds new features
    writer: FeatureStore | None  # the store that gets them
    root: Path  # of the images' paths
    patch_tokens: PatchTokens  # those that are scored
    multi_crop: MultiCrop  # the crops that are scored
    scales: tuple[int, ...]  # of the windows that are scored
    variants: tuple[MultiCrop, ...]  # of crops that all features have
    without_crops: Collection[str]  # the images whose kept features lack some of them

    def read(self, images: Sequence[str], device: torch.device) -> AllFeatures:
        """Return the kept features of all tiles of some images, on a device.

        They have no crops if an image is in `without_crops`; then all must be.
        """
        variants = () if images[0] in self.without_crops else self.variants
        stored = [self.store_of[image].read(image, variants, self.scales) for image in images]
        features = AllFeatures.concatenate(stored).map(lambda tensor: tensor.to(device))
        return replace(features, ln_post=features.ln_post.to(device))

    def missing(self, images: Sequence[str]) -> list[str]:
        """Return the images of which something must be encoded."""
        return [
            image for image in images if image not in self.store_of or image in self.without_crops
        ]

    def create_writer(self, ln_post: nn.Module | None) -> None:
        """Create the store of this run; without the tower's `ln_post`, with that of another one."""
        writer = self.writer
        ln_post = ln_post or next(iter(self.store_of.values())).ln_post
        FeatureStore.create(writer.folder, writer.encoding, writer.resize, ln_post)

    def to_copy(self, images: Sequence[str]) -> list[str]:
        """Return the images whose features are complete, but not yet in the store of this run."""
        if self.writer is None:
            return []
        return [
            image
            for image in images
            if image in self.store_of
            and image not in self.without_crops
            and self.store_of[image].folder != self.writer.folder
        ]

    def copy(self, images: Sequence[str]) -> None:
        """Copy the files of some images into the store of this run, by hard links if possible."""
        for image in images:
            store = self.store_of[image]
            source = store.find(image)
            target = self.writer.folder / source.relative_to(store.folder)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(source, target)
            except OSError:  # another disk, or a file system without hard links
                with atomic_path(target) as path:
                    shutil.copyfile(source, path)

    def add_crops(self, features: AllFeatures, embeddings: Tensor, side: int) -> AllFeatures:
        """Return features with their crops, from the embeddings (B, C, E) of `distinct_crops`.

        `side` is the side of a crop in pixels.
        """
        columns = {crop: i for i, crop in enumerate(distinct_crops(self.variants, side))}
        crops = {
            name: embeddings[:, [columns[crop] for crop in multi_crop(name, side)]]
            for name in self.variants
        }
        return replace(features, crops=crops)

    def select(self, features: AllFeatures) -> Features:
        """Return the features that are scored."""
        return features.select(self.patch_tokens, self.multi_crop)

    def keep(self, items: Sequence[Item], features: AllFeatures) -> AllFeatures:
        """Round the features of all tiles of some images; write them if the run keeps features."""
        features = self.rounding.round(features)
        start = 0
        for item in items if self.writer else ():
            rows = slice(start, start + len(item.tiles))
            start = rows.stop
            tensors = features.map(itemgetter(rows))
            self.writer.write(item.image, item.sha256, item.size, tensors)
        return features


def required_precision(result_dir: Path, features: str, features_precision: str) -> str | None:
    """Return the precision of the features to be scored; None: that of the first store.

    `features` and `features_precision` are the settings. A resumed run goes on as it began. Raises
    `InputError` if FEATURES prevents this.
    """
    required = {"keep": features_precision, "off": EXACT}.get(features)
    path = result_dir / "settings.json"
    if not path.exists():
        return required
    recorded = read_json(path, "fingerprint")["fingerprint"].get("features_precision", EXACT)
    if required not in (None, recorded):
        keeps = features == "keep"
        option = f"--features-precision {recorded}" if keeps else "--features auto"
        raise InputError(
            f"FEATURES: the scores in {result_dir} are those of {recorded} features, not "
            f"{required}; add {option}, or choose {ANOTHER_FOLDER}"
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

    `folders` maps each folder to whether its features must fit; others are passed over, and the
    log says why. An `encoding` without scales fits features of any. `precision` is that of the
    features; None: that of the first store.
    """
    encoding, stores = json.loads(json.dumps(encoding)), []
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
            store = FeatureStore.open(folder, current, resize, strict)
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


def find_kept(
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


def log_shares(
    shares: Sequence[tuple[int, int, Counter, Sequence[str]]], variants: Sequence[MultiCrop]
) -> None:
    """Log in which folders the images of all processes have kept features.

    The share of a process is the number of its images, of those that lack some of the crops of
    `variants`, of those in each folder, and why files are passed over.
    """
    totals, lacking, counts, reasons = zip(*shares, strict=True)
    for folder, count in sum(counts, Counter()).items():
        log.info(f"features of {count} of {sum(totals)} images are kept in {folder}")
    if messages := [*chain.from_iterable(reasons)]:
        log.info(f"{len(messages)} files of features are not used; the first: {messages[0]}")
    if any(lacking):
        crops = " ".join(variants)
        log.info(f"{sum(lacking)} of them lack crops ({crops}), which are encoded now")

"""Read the kept features of a run's images, and keep new ones."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor

from datasets.images import Item
from datasets.tiles import distinct_crops, multi_crop
from models.clip.encoder import WindowedEncoder
from models.clip.features import AllFeatures
from models.winclip import Features
from utils.distributed.context import DistributedContext
from utils.experiment.settings import Settings
from utils.features.space import check_space
from utils.features.store import FeatureStore
from utils.files import atomic_path
from utils.log import log


@dataclass(frozen=True)
class KeptFeatures:
    """The stores of a run, all in one precision."""

    settings: Settings
    root: Path  # of the images' paths
    store: FeatureStore  # in the run's folder: rounds new features, and gets them if they are kept
    store_of: Mapping[str, FeatureStore]  # of the images that have kept features
    without_crops: frozenset[str]  # the images whose kept features lack some of the crops
    missing: frozenset[str]  # of this process's images: their tiles or crops must be encoded

    def read(self, images: Sequence[str], device: torch.device) -> AllFeatures:
        """Return the kept features of all tiles of some images, on a device.

        They have no crops if an image is in `without_crops`; then all must be.
        """
        variants = () if images[0] in self.without_crops else self.settings.encoded_crops
        scales = self.settings.scales
        stored = [self.store_of[image].read(image, variants, scales) for image in images]
        features = AllFeatures.concatenate(stored).map(lambda tensor: tensor.to(device))
        return replace(features, ln_post=features.ln_post.to(device))

    def prepare(
        self, images: Sequence[str], encoder: WindowedEncoder | None, context: DistributedContext
    ) -> None:
        """Create the store, after announcing its size; copy features from other folders into it.

        `images` are those of this process, `encoder` is None if nothing is encoded. Raises
        `InputError` if the disk has too little space.
        """
        copied = self.to_copy(images)
        counts = context.all_gather((len(self.missing), len(copied)))
        count, copies = map(sum, zip(*counts, strict=True))
        if not count:
            log.info("there is nothing to encode, so no features are computed")
        if context.is_main and count:
            side = encoder.visual.image_size[0]
            crops = sum(len(multi_crop(name, side)) for name in self.settings.encoded_crops)
            paths = [self.root / image for image in images if image in self.missing]
            check_space(self.store, paths, count, encoder, crops)
        if context.is_main and (count or copies):
            tower = encoder.visual if encoder else next(iter(self.store_of.values()))
            self.store.create(tower.ln_post)
        context.barrier()  # no process writes before
        self.copy(copied)
        if copies:
            log.info(f"features of {copies} images are copied to {self.store.folder}")

    def to_copy(self, images: Sequence[str]) -> list[str]:
        """Return the images whose features are complete, but not yet in the store of this run."""
        return [
            image
            for image in images
            if image in self.store_of
            and image not in self.without_crops
            and self.store_of[image].folder != self.store.folder
        ]

    def copy(self, images: Sequence[str]) -> None:
        """Copy the files of some images into the store of this run, by hard links if possible."""
        for image in images:
            earlier = self.store_of[image]
            source = earlier.find(image)
            target = self.store.folder / source.relative_to(earlier.folder)
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
        variants = self.settings.encoded_crops
        columns = {crop: i for i, crop in enumerate(distinct_crops(variants, side))}
        crops = {
            name: embeddings[:, [columns[crop] for crop in multi_crop(name, side)]]
            for name in variants
        }
        return replace(features, crops=crops)

    def select(self, features: AllFeatures) -> Features:
        """Return the features that are scored."""
        return features.select(self.settings.patch_tokens, self.settings.multi_crop)

    def keep(self, items: Sequence[Item], features: AllFeatures) -> AllFeatures:
        """Round the features of all tiles of some images; write them if the run keeps features."""
        features = self.store.round(features)
        start = 0
        for item in items if self.settings.features == "keep" else ():
            rows = slice(start, start + len(item.tiles))
            start = rows.stop
            tensors = features.map(itemgetter(rows))
            self.store.write(item.image, item.sha256, item.size, tensors)
        return features

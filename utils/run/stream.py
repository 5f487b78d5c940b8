"""Stream the features of a run's images: decoded ahead by workers, encoded once each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.images import ImageDataset, Item, normalise
from datasets.tiles import MultiCrop
from models.clip.device import matmul_precision
from models.clip.features import AllFeatures
from models.clip.weights import LoadedClip
from models.methods import ImageFeatures, Method
from models.winclip import Features
from utils.errors import InputError, describe_error
from utils.experiment.plan import CategoryTask, Experiment
from utils.experiment.settings import Settings
from utils.results.heatmaps import MAX_ASPECT, fit
from utils.stopwatch import Stopwatch
from utils.workers import exit_with_parent, start_workers

if TYPE_CHECKING:  # only runs with kept features load it
    from utils.features.kept import KeptFeatures

Encoded = TypeVar("Encoded", ImageFeatures, AllFeatures, Tensor)
TILES_PER_PASS = 32  # encoded at a time on a GPU; bounds its memory whatever the images' shape
CROPS_PER_PASS = 256  # on a GPU; a crop has a twelfth of the tokens of a tile
DECODE_TIMEOUT_S = 600  # for a batch; a worker that lacks the memory to send one never answers
PREVIEW_BYTES = 128 * 2**20  # previews kept in memory per category; other images are decoded twice


class FeatureStream:
    """The images of some tasks and their features, in a fixed order.

    The order is that of the tasks; within a task, the reference images come first, then the test
    images, as the task lists them. Call `take` for each task's references, then for its tests, in
    this order, because the workers decode ahead. For `tf32`, see `WindowedEncoder`.
    """

    def __init__(
        self,
        loader: DataLoader,
        clip: LoadedClip,
        method: Method,
        clock: Stopwatch,
        kept_features: "KeptFeatures | None" = None,
        tf32: bool = False,
    ):
        with start_workers():
            self.batches = iter(loader)
        self.device = method.device
        statistics = torch.tensor([clip.mean, clip.std], device=self.device)
        self.mean, self.std = statistics[:, :, None, None]
        self.method = method
        self.tf32 = tf32
        self.clock = clock
        self.kept_features = kept_features
        self.on_cpu = self.device.type == "cpu"
        # On a CPU, batching is no faster, and scores stay independent of the batch.
        self.tiles_per_pass = 1 if self.on_cpu else TILES_PER_PASS

    def take(
        self, count: int, one_by_one: bool = False
    ) -> Iterator[tuple[list[Item], ImageFeatures]]:
        """Yield the next `count` images, batch by batch, with the features of all their tiles.

        The tiles of a batch are in the order of its items; a batch is a single image if
        `one_by_one`. Raises `InputError` for an image that cannot be decoded.
        """
        while count > 0:
            items = self._decode()
            count -= len(items)
            for batch in group_items(items, 1 if one_by_one else self.tiles_per_pass):
                if self.kept_features is None:
                    features = self._encode_tiles(batch, self.method.encode_images)
                    if batch[0].crops:
                        features = replace(features, crops=self._encode_crops(batch))
                    yield batch, features
                else:
                    yield from self._read_or_encode(batch)

    def _decode(self) -> list[Item]:
        with self.clock.stage("decode"):
            items = next(self.batches)
        for item in items:
            if item.error:
                raise InputError(item.error)
        return items

    def _encode_tiles(self, items: list[Item], encode: Callable[[Tensor], Encoded]) -> Encoded:
        tiles = np.concatenate([item.tiles for item in items])
        encoded = self._encode(tiles, encode, self.tiles_per_pass)
        return type(encoded[0]).concatenate(encoded)

    def _encode_crops(self, items: list[Item]) -> Tensor:
        """Embed the C crops of the B tiles of some items: (B, C, E).

        On a CPU, a pass has the crops of one tile that every variant has together or not at all, so
        that scores do not depend on the other variants.
        """
        embeddings = []
        for arrays in zip(*(item.crops for item in items), strict=True):
            crops = np.concatenate(arrays)
            per_pass = crops.shape[1] if self.on_cpu else CROPS_PER_PASS
            pixels = crops.reshape(-1, *crops.shape[2:])
            encoded = torch.cat(self._encode(pixels, self.method.encoder.encode_crops, per_pass))
            embeddings.append(encoded.unflatten(0, crops.shape[:2]))
        return torch.cat(embeddings, dim=1)

    def _encode(
        self, pixels: np.ndarray, encode: Callable[[Tensor], Encoded], per_pass: int
    ) -> list[Encoded]:
        """Encode pixels (B, 3, S, S) uint8, `per_pass` of the B at a time."""
        encoded = []
        with self.clock.stage("encode", self.device), matmul_precision(self.tf32):
            for images in torch.from_numpy(pixels).split(per_pass):
                if not self.on_cpu:  # from pinned memory, the copy does not wait for earlier work
                    images = images.pin_memory().to(self.device, non_blocking=True)
                encoded.append(encode(normalise(images, self.mean, self.std)))
        return encoded

    def _read_or_encode(self, items: list[Item]) -> Iterator[tuple[list[Item], Features]]:
        """Yield items with their features, read or newly encoded, as rounded by the store."""
        stores = self.kept_features

        def has_features(item: Item) -> tuple[bool, bool]:  # of its tiles, and of their crops
            in_store = item.image in stores.store_of
            return in_store, in_store and item.image not in stores.without_crops

        for (has_tiles, has_crops), group in groupby(items, has_features):
            batch = list(group)
            if has_tiles:
                with self.clock.stage("read features"):
                    features = stores.read([item.image for item in batch], self.device)
            else:
                features = self._encode_tiles(batch, self.method.encoder.encode_all)
            if stores.settings.encoded_crops and not has_crops:
                side = batch[0].tiles.shape[-1]
                features = stores.add_crops(features, self._encode_crops(batch), side)
            if not has_crops:
                with self.clock.stage("keep features"):
                    features = stores.keep(batch, features)
            yield batch, stores.select(features)


class HostCopy:
    """Tensors on their way to the CPU: the copies start now, and only `read` waits for them."""

    def __init__(self, *tensors: Tensor):
        self.copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self.event = None
        if any(tensor.is_cuda for tensor in tensors):
            self.event = torch.cuda.Event()
            self.event.record()

    def read(self) -> list[np.ndarray]:
        """Wait for the copies and return them in ordinary memory, not in page-locked memory."""
        if self.event is not None:
            self.event.synchronize()
        return [copy.numpy().copy() for copy in self.copies]


def make_loader(
    settings: Settings,
    experiment: Experiment,
    tasks: Sequence[CategoryTask],
    side: int,
    multi_crops: tuple[MultiCrop, ...] = (),
) -> DataLoader:
    """Return a loader of the images of `tasks`, in the order of `FeatureStream`.

    `side` is the size of the encoder's square input in pixels; `multi_crops` are the variants whose
    crops are cut. With TILE, an image of 4000 x 3000 pixels can take 78 MiB, so each batch is one
    image, and each worker decodes one ahead.
    """
    groups = [rows for task in tasks for rows in (task.references, task.tests)]
    height = settings.heatmap_size
    max_previews = PREVIEW_BYTES // (3 * MAX_ASPECT * height**2)
    panels = [task.images_with_panel(settings.heatmaps)[:max_previews] for task in tasks]
    dataset = ImageDataset(
        experiment.root,
        [sample for rows in groups for sample in rows],
        side,
        settings.resize,
        settings.eval_size,
        experiment.apply_exif,
        settings.tile,
        white=experiment.white,
        mask_reader=experiment.mask_reader,
        previewed=frozenset(sample.image for samples in panels for sample in samples),
        shrink=partial(fit, height=height),
        multi_crops=multi_crops,
        checksums=settings.features == "keep",
    )
    workers = settings.num_workers if len(dataset) else 0
    batch_size = 1 if settings.tile else settings.batch_size
    return DataLoader(
        dataset,
        batch_sampler=batch_indices([len(rows) for rows in groups], batch_size),
        num_workers=workers,
        prefetch_factor=1 if settings.tile and workers else None,
        collate_fn=list,
        timeout=DECODE_TIMEOUT_S if workers else 0,
        worker_init_fn=exit_with_parent,
    )


@contextmanager
def gpu_errors(settings: Settings) -> Iterator[None]:
    """Raise `InputError` for a GPU that has too little memory."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        options = []
        if settings.batch_size > 1 and not settings.tile:
            options.append(f"--batch-size {settings.batch_size // 2}")
        if settings.precision in ("fp32", "tf32"):
            options.append("--precision fp16")
        advice = f"use {' or '.join(options)}, or " if options else ""
        raise InputError(
            f"the GPU has too little free memory ({describe_error(error)}); {advice}end the other "
            "programs on this GPU"
        ) from error


def group_items(items: Sequence[Item], tiles: int) -> list[list[Item]]:
    """Group consecutive images of at most `tiles` tiles in all; an image with more is alone."""
    groups, size = [], 0
    for item in items:
        size += len(item.tiles)
        if not groups or size > tiles:
            groups.append([])
            size = len(item.tiles)
        groups[-1].append(item)
    return groups


def batch_indices(group_sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    """Split consecutive groups of rows into batches that never span two groups.

    >>> batch_indices([3, 2], 2)
    [[0, 1], [2], [3, 4]]
    """
    batches, start = [], 0
    for size in group_sizes:
        rows = range(start, start + size)
        batches += [list(rows[i : i + batch_size]) for i in range(0, size, batch_size)]
        start += size
    return batches

"""The features of all images of a run: decoded ahead by worker processes, encoded once each."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from datasets.images import ImageDataset, Item, normalise
from models.encoder import WindowedEncoder
from models.weights import LoadedClip
from models.winclip import Features
from utils.errors import InputError
from utils.run.distributed import exit_with_parent
from utils.run.plan import CategoryTask, Experiment
from utils.run.settings import Settings
from utils.stopwatch import Stopwatch


class FeatureStream:
    """The images of some tasks and their features, in a fixed order.

    The order is that of the tasks; within a task, the reference images come first, then the test
    images, as the task lists them. Call `take` for each task's references, then for its tests, in
    this order, because the workers decode ahead.
    """

    def __init__(
        self, loader: DataLoader, clip: LoadedClip, encoder: WindowedEncoder, clock: Stopwatch
    ):
        self.batches = iter(loader)
        self.clip = clip
        self.encoder = encoder
        self.clock = clock
        self.on_cpu = encoder.device.type == "cpu"

    def take(self, count: int) -> Iterator[tuple[list[Item], Features]]:
        """Yield the next `count` images, batch by batch, with the features of all their tiles.

        The tiles of a batch are in the order of its items. Raises `InputError` for an image that
        cannot be decoded.
        """
        while count > 0:
            items = self._decode()
            count -= len(items)
            # On a CPU, one image at a time: batching is no faster, and scores stay independent of
            # the batch.
            for batch in [[item] for item in items] if self.on_cpu else [items]:
                yield batch, self._encode(batch)

    def _decode(self) -> list[Item]:
        with self.clock.stage("decode"):
            items = next(self.batches)
        for item in items:
            if item.error:
                raise InputError(item.error)
        return items

    def _encode(self, items: list[Item]) -> Features:
        with self.clock.stage("encode"):
            tiles = torch.cat([item.tiles for item in items]).to(self.encoder.device)
            tiles = normalise(tiles, self.clip.mean, self.clip.std)
            batches = tiles.split(1 if self.on_cpu else len(tiles))
            features = [self.encoder.encode_images(batch) for batch in batches]
            if not self.on_cpu:
                torch.cuda.synchronize(
                    self.encoder.device
                )  # so that this stage's seconds are complete
        return Features.concatenate(features)


def make_loader(
    settings: Settings, experiment: Experiment, tasks: Sequence[CategoryTask], side: int
) -> DataLoader:
    """Return a loader of the images of `tasks`, in the order of `FeatureStream`.

    `side` is the size of the encoder's square input in pixels.
    """
    groups = [rows for task in tasks for rows in (task.references, task.tests)]
    dataset = ImageDataset(
        experiment.root,
        [sample for rows in groups for sample in rows],
        side,
        settings.resize,
        settings.eval_size,
        experiment.apply_exif,
        settings.tile,
    )
    return DataLoader(
        dataset,
        batch_sampler=batch_indices([len(rows) for rows in groups], settings.batch_size),
        num_workers=settings.num_workers if len(dataset) else 0,
        collate_fn=list,
        worker_init_fn=exit_with_parent,
    )


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

"""Estimate the size of kept features before a run, and refuse to fill the disk with them."""

import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean

from datasets.decode import open_image
from datasets.tiles import Resize, tile_grid, tile_side
from models.clip.encoder import WindowedEncoder
from utils.errors import InputError
from utils.features.store import PRECISIONS, FeatureStore
from utils.log import log

MAX_MEASURED = 100  # images whose number of tiles is read to estimate the size of their features


def check_space(
    store: FeatureStore, paths: Sequence[Path], count: int, encoder: WindowedEncoder, crops: int
) -> None:
    """Announce the size of the features that `store` will get.

    They are those of `count` images, of which `paths` are some; each tile has so many `crops`.
    Raises `InputError` if the disk has too little space.
    """
    measured = paths[:: len(paths) // MAX_MEASURED + 1]
    tiles = mean_tiles(measured, store.resize, store.encoding["tile"])
    size = int(count * tiles * bytes_per_tile(encoder, store.precision, crops))
    free = shutil.disk_usage(store.folder.parent).free
    text = f"features of {count} images take about {describe_bytes(size)} in {store.precision}"
    if size > free:
        raise InputError(
            f"{text}, but {store.folder} has only {describe_bytes(free)} left; free some space, "
            "choose a folder on another disk with --result-dir, or do not keep features"
        )
    log.info(f"{text}, to be written to {store.folder} ({describe_bytes(free)} free)")


def mean_tiles(paths: Sequence[Path], resize: Resize, tile: int) -> float:
    """Return the mean number of tiles of the readable images at `paths`; 1 without any."""
    counts = []
    for path in paths if resize == "tile" else ():
        with suppress(InputError), open_image(path) as image:
            height, width = image.height, image.width
            counts.append(math.prod(tile_grid(height, width, tile_side(height, width, tile))))
    return fmean(counts or [1])


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

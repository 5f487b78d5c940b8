"""The dataset of a run: each image of a split as tiles for the encoder, with its evaluation mask.

For square RGB and grey images, decoding and resizing equal open_clip's own transform bit for bit.
Images of other modes are converted to RGB before resizing.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datasets.decode import SIXTEEN_BITS, White, make_thumbnail, read_image, read_mask
from datasets.splits import Sample
from datasets.tiles import (
    MultiCrop,
    Resize,
    check_tile_count,
    cut_tiles,
    distinct_crops,
    resized_shape,
)
from utils.errors import InputError
from utils.files import sha256_of

MaskReader = Callable[[str, tuple[int, int]], np.ndarray]  # to (H, W) bool, of (width, height)
EvalSize = int | Literal["source"]  # shorter side of maps and masks, or each image's own shape


@dataclass(frozen=True)
class Item:
    """One image, ready to be encoded and evaluated, or the message that says why it is not.

    Its arrays are NumPy's, which worker processes send through a pipe. Tensors would go through
    shared memory: each takes a file descriptor, and containers have 64 MB of it by default.
    """

    image: str  # path of the sample's image, which identifies it
    tiles: np.ndarray  # (T, 3, S, S) uint8, row by row of the grid
    grid: tuple[int, int]  # rows and columns of tiles; their product is T
    mask: np.ndarray  # (H, W) bool at the first evaluation size; all False for a good image
    size: tuple[int, int]  # height and width of the source image in pixels
    thumbnail: bytes  # a small JPEG file
    preview: np.ndarray | None = None  # (h, w, 3) uint8 RGB: the image in its heatmap panel
    further_masks: dict[EvalSize, np.ndarray] = field(default_factory=dict)  # at the other sizes
    crops: tuple[np.ndarray, ...] = ()  # of `cut_crops`: (T, C, 3, S, S) uint8 each
    sha256: str = ""  # of the image's file, if the dataset has `checksums`
    error: str = ""  # why the image or its mask cannot be used


@dataclass(eq=False)
class ImageDataset(Dataset):
    """The images of some samples: item i is that of `samples[i]`, decoded once.

    Indexing never raises for a bad file, because a DataLoader turns the exception of a worker
    process into a traceback: the consumer raises `Item.error` as an `InputError`.
    """

    root: Path  # of the paths in `samples`
    samples: list[Sample]
    side: int  # of the encoder's input, in pixels
    resize: Resize
    eval_size: tuple[EvalSize, ...]
    apply_exif: bool = False  # False for benchmarks, whose masks match the pixels as stored
    tile: int = 0  # side of the tiles in pixels of the image; 0: its shorter side
    white: Mapping[str, White] = field(default_factory=dict)  # by category; 16 bits for others
    mask_reader: MaskReader | None = None  # of `Sample.mask`; None: `read_mask`, below `root`
    previewed: Collection[str] = ()  # the images that get a preview
    shrink: Callable[[np.ndarray], np.ndarray] | None = None  # makes the preview of an image
    multi_crops: tuple[MultiCrop, ...] = ()  # the variants whose crops are cut
    checksums: bool = False  # compute `Item.sha256`, in the processes that decode

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        try:
            return self.load(sample)
        except InputError as error:
            empty = np.empty(0)
            return Item(sample.image, empty, (0, 0), empty, (0, 0), b"", error=str(error))

    def load(self, sample: Sample) -> Item:
        """Decode the image and the mask of a sample; raise `InputError` if either is bad."""
        path = self.root / sample.image
        white = self.white.get(sample.class_name, SIXTEEN_BITS)
        image = read_image(path, self.apply_exif, white)
        check_tile_count(path, image.size, self.resize, self.tile)
        mask, *further_masks = self.read_masks(sample, image.size)
        tiles, grid = cut_tiles(image, self.side, self.resize, self.tile)
        return Item(
            sample.image,
            tiles,
            grid,
            mask,
            (image.height, image.width),
            make_thumbnail(image),
            self.shrink(np.asarray(image)) if sample.image in self.previewed else None,
            dict(zip(self.eval_size[1:], further_masks, strict=True)),
            self.cut_crops(image, grid),
            sha256_of(path) if self.checksums else "",
        )

    def cut_crops(self, image: Image.Image, grid: tuple[int, int]) -> tuple[np.ndarray, ...]:
        """Cut the `distinct_crops` of all tiles from the image, resized once for each size.

        Returns an array (T, C, 3, side, side) for each size of the tiles and for mirrored crops.
        """
        side, groups = self.side, []
        crops = distinct_crops(self.multi_crops, side)
        for (size, mirrored), group in groupby(crops, attrgetter("size", "mirrored")):
            tiles, _ = cut_tiles(image, size, self.resize, self.tile, grid)
            cut = [tiles[..., c.top : c.top + side, c.left : c.left + side] for c in group]
            pixels = np.stack(cut, axis=1)
            groups.append(np.ascontiguousarray(pixels[..., ::-1]) if mirrored else pixels)
        return tuple(groups)

    def read_masks(self, sample: Sample, image_size: tuple[int, int]) -> list[np.ndarray]:
        """Return the mask of a sample at each evaluation size; `image_size` is (width, height)."""
        width, height = image_size
        shapes = [eval_shape(height, width, size, self.resize) for size in self.eval_size]
        if not sample.mask:
            return [np.zeros(shape, bool) for shape in shapes]
        if self.mask_reader:
            mask = self.mask_reader(sample.mask, image_size)
        else:
            mask = read_mask(self.root / sample.mask, image_size)
        return [resize_mask(mask, shape) for shape in shapes]


def normalise(tiles: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn uint8 pixels (T, 3, S, S) into open_clip's float32 input, step by step as it does.

    `mean` and `std` are (3, 1, 1), on the device of the tiles. torchvision's own function would
    wait for the GPU.
    """
    return tiles.to(torch.float32).div(255).sub_(mean).div_(std)


def eval_shape(height: int, width: int, eval_size: EvalSize, resize: Resize) -> tuple[int, int]:
    """Return the (height, width) at which the map of an image is compared with its mask.

    An `eval_size` in pixels is the shorter side.
    """
    if eval_size == "source":
        return height, width
    return resized_shape(height, width, eval_size, resize)


def resize_mask(anomalous: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a mask (H, W) bool to the evaluation `shape` (height, width).

    Resize bilinearly (with Pillow's antialiasing) and threshold at one half, as the public
    implementations do. If no pixel reaches one half, keep those with the highest coverage, so that
    no mask vanishes.
    """
    if anomalous.shape == shape:
        return anomalous
    size, bilinear = shape[::-1], Image.Resampling.BILINEAR
    coverage = Image.fromarray(anomalous.astype(np.uint8) * 255)
    resized = np.asarray(coverage.resize(size, bilinear)) > 127
    if resized.any():
        return resized
    exact = np.asarray(coverage.convert("F").resize(size, bilinear))
    return exact == exact.max()

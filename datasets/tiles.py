"""Cut an image into square tiles, the inputs of the encoder.

Without TILE, a tile is as wide as the image's shorter side S, and the tiles lie along the longer
side; a square image has one. With TILE = N, tiles are N source pixels wide and cover both sides.
Tiles are evenly spaced, from edge to edge. With MULTI_CROP, crops of each tile are encoded as well.
"""

import math
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from utils.errors import InputError

# Overlapping square tiles, or one: of the squashed image, or of the square at its centre.
Resize = Literal["tile", "squash", "centre_crop"]
CropVariant = Literal["five", "ten", "overlap-1.25", "overlap-1.5", "overlap-2"]
MultiCrop = Literal["none", CropVariant]

STRIDE = 0.8  # largest step between tiles, of their side: neighbours overlap by a fifth or more
MAX_TILES, MAX_TILES_OF_TILE = 32, 512  # per image, without and with TILE: bounds the memory
CROP_RATIO = 0.875  # side of a crop / side of the resized tile, as in ImageNet's evaluation


class TileCountError(InputError):
    """An image that would be cut into too many tiles."""

    def __init__(self, sentence: str, smallest_tile: int | None = None):
        super().__init__(sentence)
        self.smallest_tile = smallest_tile  # TILE that fits; None: without TILE, or no TILE fits


def tile_side(height: int, width: int, tile: int = 0) -> int:
    """Return the side of an image's tiles in pixels; `tile` is the setting TILE, 0 for none."""
    short = min(height, width)
    return min(tile, short) if tile else short


def tile_grid(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the rows and columns of tiles of `side` pixels that cover an image.

    >>> tile_grid(240, 360, 240), tile_grid(600, 1000, 200)
    ((1, 2), (4, 6))
    """
    rows, columns = (1 + math.ceil((length - side) / (STRIDE * side)) for length in (height, width))
    return rows, columns


def tile_boxes(
    height: int, width: int, side: int, grid: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """Return (top, left, side) of each tile in pixels, row by row.

    >>> tile_boxes(240, 360, 240, (1, 2))
    [(0, 0, 240), (0, 120, 240)]
    """
    tops, lefts = (
        np.rint(np.linspace(0, length - side, count)).astype(int).tolist()
        for length, count in zip((height, width), grid, strict=True)
    )
    return [(top, left, side) for top in tops for left in lefts]


def check_tile_count(path: Path, size: tuple[int, int], resize: Resize, tile: int) -> None:
    """Raise `TileCountError` for an image of (width, height) that would make too many tiles."""
    width, height = size
    rows, columns = tile_grid(height, width, tile_side(height, width, tile))
    limit = MAX_TILES_OF_TILE if tile else MAX_TILES
    if resize == "tile" and rows * columns > limit:
        smallest = smallest_tile(height, width) if tile else None
        advice = f"set --tile to {smallest} or more" if smallest else "crop it"
        raise TileCountError(
            f"{path} is {width} x {height} pixels, which makes {rows * columns} "
            f"square tiles, more than {limit}; {advice}",
            smallest,
        )


def smallest_tile(height: int, width: int) -> int | None:
    """Return the smallest TILE that an image can be cut with; None if it is too long for any.

    >>> smallest_tile(480, 640), smallest_tile(1, 1000)
    (32, None)
    """
    sides = range(1, min(height, width) + 1)
    fits = (
        side for side in sides if math.prod(tile_grid(height, width, side)) <= MAX_TILES_OF_TILE
    )
    return next(fits, None)


def cut_tiles(
    image: Image.Image,
    side: int,
    resize: Resize,
    tile: int = 0,
    grid: tuple[int, int] | None = None,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Resize an image and cut the encoder's inputs: (T, 3, side, side) uint8, and their grid.

    "tile" resizes the image (bicubic, as open_clip's own transform does) so that a tile of `tile`
    pixels, or with 0 the shorter side, becomes `side`, and cuts tiles. "squash" resizes both sides
    to `side`: one tile. "centre_crop" resizes the shorter side and crops, as open_clip's own
    transform does. `grid` sets the rows and columns of tiles; None: as many as are needed.
    """
    height, width = image.height, image.width
    shorter = round(side * min(height, width) / tile_side(height, width, tile))
    shape = resized_shape(height, width, side if resize == "squash" else shorter, resize)
    resized = image.resize(shape[::-1], Image.Resampling.BICUBIC)
    if resize == "centre_crop":
        left, top = (round((length - side) / 2) for length in resized.size)
        resized = resized.crop((left, top, left + side, top + side))
    pixels = np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))
    height, width = pixels.shape[-2:]
    grid = grid or tile_grid(height, width, side)
    boxes = tile_boxes(height, width, side, grid)
    tiles = [pixels[:, top : top + edge, left : left + edge] for top, left, edge in boxes]
    return np.stack(tiles), grid


def resized_shape(height: int, width: int, shorter: int, resize: Resize) -> tuple[int, int]:
    """Return the (height, width) of an image after its shorter side has become `shorter` pixels.

    The aspect ratio stays, unless the image is squashed.
    """
    if resize == "squash":
        return shorter, shorter
    short, long = sorted((height, width))
    longer = int(shorter * long / short)  # rounded down, as torchvision does
    return (shorter, longer) if height <= width else (longer, shorter)


class Crop(NamedTuple):
    """A square crop of a tile, which is resized to `size` pixels; `mirrored` swaps left and right.

    The crop has the side of the encoder's input.
    """

    size: int
    top: int
    left: int
    mirrored: bool = False


def multi_crop(variant: MultiCrop, side: int) -> list[Crop]:
    """Return the crops of a tile, each `side` pixels wide.

    "five" resizes the tile to side / CROP_RATIO and takes the four corners and the centre; "ten"
    adds their mirror images. "overlap-s" resizes it to s times the side and covers it with crops
    as TILE covers an image: 2 x 2 of them, or 3 x 3 for "overlap-2".

    >>> multi_crop("five", 224)[-1]
    Crop(size=256, top=16, left=16, mirrored=False)
    """
    if variant == "none":
        return []
    if variant in ("five", "ten"):
        size = round(side / CROP_RATIO)
        margin, centre = size - side, round((size - side) / 2)
        positions = [*product((0, margin), repeat=2), (centre, centre)]
        mirrored = (False, True) if variant == "ten" else (False,)
        return [Crop(size, top, left, mirror) for mirror in mirrored for top, left in positions]
    size = round(float(variant.removeprefix("overlap-")) * side)
    boxes = tile_boxes(size, size, side, tile_grid(size, size, side))
    return [Crop(size, top, left) for top, left, _ in boxes]


def distinct_crops(variants: Iterable[MultiCrop], side: int) -> list[Crop]:
    """Return the crops of all variants; those that several variants share are returned once."""
    return list(dict.fromkeys(crop for name in variants for crop in multi_crop(name, side)))

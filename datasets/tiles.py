"""Geometry of the overlapping square tiles that cover an image.

Without TILE, a tile is as wide as the image's shorter side S, and the tiles lie along the longer
side; a square image has one. With TILE = N, tiles are N source pixels wide and cover both sides.
Tiles are evenly spaced, from edge to edge.
"""

import math

import numpy as np

STRIDE = 0.8  # largest step between tiles, of their side: neighbours overlap by a fifth or more


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

"""Geometry of the square tiles that cover a non-square image.

An image whose shorter side is S is cut into S x S tiles along its longer side, evenly spaced so
that both ends are covered. A square image has one tile.
"""

import math

import numpy as np

STRIDE = 0.8  # largest step between tiles, of their side: neighbours overlap by a fifth or more


def tile_count(height: int, width: int) -> int:
    """Return the number of tiles that an image of this shape needs."""
    short, long = sorted((height, width))
    return 1 + math.ceil((long - short) / (STRIDE * short))


def tile_boxes(height: int, width: int, count: int) -> list[tuple[int, int, int]]:
    """Return (top, left, side) of `count` square tiles, in pixels, from the top left onwards.

    >>> tile_boxes(240, 360, 2)
    [(0, 0, 240), (0, 120, 240)]
    """
    short, long = sorted((height, width))
    starts = np.rint(np.linspace(0, long - short, count)).astype(int).tolist()
    if width >= height:
        return [(0, start, short) for start in starts]
    return [(start, 0, short) for start in starts]

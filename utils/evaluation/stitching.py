"""One anomaly map of an image from the maps of its tiles."""

import numpy as np
import torch
import torch.nn.functional as F

from datasets.tiles import tile_boxes


def stitch(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """One map of an image from its tiles' maps: upsampled bilinearly, averaged where they overlap.

    `maps` (T, G, G) float32, in the order of `tile_boxes`; returns (height, width) float32. A
    single tile is the whole image, also where that was squashed to a square.
    """
    side = min(height, width)
    size = (height, width) if len(maps) == 1 else (side, side)
    grids = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[:, None]
    tiles = F.interpolate(grids, size=size, mode="bilinear", align_corners=False)[:, 0]
    if len(tiles) == 1:
        return tiles[0].numpy()
    total = torch.zeros(height, width)
    covering = torch.zeros(height, width)
    for tile, (top, left, _) in zip(tiles, tile_boxes(height, width, len(maps)), strict=True):
        total[top : top + side, left : left + side] += tile
        covering[top : top + side, left : left + side] += 1
    return (total / covering).numpy()


class StitchedMaps:
    """The maps of a category at their evaluation shapes, made one at a time when they are read.

    A sequence of N maps (H_i, W_i) float32, from `maps` (M, G, G) with M tiles in all, `tiles`
    (N,) the number of each image's tiles, and `shapes` N pairs (H_i, W_i).
    """

    def __init__(self, maps: np.ndarray, tiles: np.ndarray, shapes: list[tuple[int, int]]):
        self.maps = maps
        self.ends = np.cumsum(tiles)
        self.tiles = tiles
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        end = self.ends[index]
        return stitch(self.maps[end - self.tiles[index] : end], *self.shapes[index])

"""The anomaly map of an image from the maps of its tiles."""

from collections.abc import Sequence

import numpy as np

from datasets.tiles import tile_boxes


def stitch_tiles(
    maps: np.ndarray, shape: tuple[int, int], grid: tuple[int, int], side: float = 1.0
) -> np.ndarray:
    """Upsample the maps of an image's tiles bilinearly, and average them where tiles overlap.

    `maps` is (T, G, G) float32, row by row of `grid`; returns float32 of `shape` (height, width).
    `side` is that of a tile, relative to the image's shorter side. A single tile covers the whole
    image, so the map of a squashed image is stretched to its shape.

    >>> stitch_tiles(np.array([[[1.0]], [[3.0]]]), (2, 3), (1, 2))
    array([[1., 2., 3.],
           [1., 2., 3.]], dtype=float32)
    """
    import torch  # slow to load, and tools that read only image scores do not need it
    import torch.nn.functional as F

    side = max(1, round(side * min(shape)))
    size = shape if len(maps) == 1 else (side, side)
    grids = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[:, None]
    tiles = F.interpolate(grids, size=size, mode="bilinear", align_corners=False)[:, 0]
    if len(tiles) == 1:
        return tiles[0].numpy()
    total = torch.zeros(shape)
    coverage = torch.zeros(shape)
    for tile, (top, left, _) in zip(tiles, tile_boxes(*shape, side, grid), strict=True):
        total[top : top + side, left : left + side] += tile
        coverage[top : top + side, left : left + side] += 1
    return (total / coverage).numpy()


class StitchedMaps:
    """Lazy sequence of one run's N anomaly maps: indexing stitches a map and does not store it.

    `maps` is (M, G, G), the tiles' maps image by image; `grids` is (N, 2), the rows and columns of
    each image's tiles, and `sides` (N,) their side relative to the image's shorter side; `shapes`
    has N pairs (H_i, W_i). Item i is (H_i, W_i) float32.
    """

    def __init__(
        self,
        maps: np.ndarray,
        grids: np.ndarray,
        sides: np.ndarray,
        shapes: Sequence[tuple[int, int]],
    ):
        self.maps = np.split(maps, grids.prod(axis=1).cumsum()[:-1])
        self.grids, self.sides, self.shapes = grids.tolist(), sides.tolist(), shapes

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        return stitch_tiles(
            self.maps[index], self.shapes[index], self.grids[index], self.sides[index]
        )

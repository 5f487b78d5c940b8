"""Stitch the maps of an image's tiles into the anomaly map of the image."""

from collections.abc import Sequence

import numpy as np

from datasets.tiles import tile_boxes


def stitch_tiles(
    maps: np.ndarray,
    shape: tuple[int, int],
    grid: tuple[int, int],
    side: float = 1.0,
    blur: float = 0.0,
) -> np.ndarray:
    """Upsample the maps of an image's tiles bilinearly, and average them where tiles overlap.

    `maps` is (T, G, G) float32, row by row of `grid`; returns float32 of `shape` (height, width).
    `side` is that of a tile, relative to the image's shorter side. A single tile covers the whole
    image, so the map of a squashed image is stretched to its shape. `blur` is the standard
    deviation of a Gaussian that is then applied, in patches along both axes.

    >>> stitch_tiles(np.array([[[1.0]], [[3.0]]]), (2, 3), (1, 2))
    array([[1., 2., 3.],
           [1., 2., 3.]], dtype=float32)
    """
    import torch  # slow to load, and tools that read only image scores do not need it
    import torch.nn.functional as F

    side = max(1, round(side * min(shape)))
    size = shape if len(maps) == 1 else (side, side)
    grids = torch.from_numpy(np.ascontiguousarray(maps[:, None], dtype=np.float32))
    tiles = F.interpolate(grids, size=size, mode="bilinear", align_corners=False).numpy()[:, 0]
    if len(tiles) == 1:
        return blurred(tiles[0], blur, shape, maps.shape[1:])
    total, coverage = np.zeros((2, *shape), np.float32)
    for tile, (top, left, _) in zip(tiles, tile_boxes(*shape, side, grid), strict=True):
        total[top : top + side, left : left + side] += tile
        coverage[top : top + side, left : left + side] += 1
    return blurred(total / coverage, blur, (side, side), maps.shape[1:])


def blurred(
    values: np.ndarray, blur: float, size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Return a map (H, W) after a Gaussian whose standard deviation is `blur` patches.

    A tile has `size` pixels (height, width) and `grid` patches.
    """
    if not blur:
        return values
    from scipy.ndimage import gaussian_filter  # slow to load; few methods blur

    return gaussian_filter(values, blur * np.divide(size, grid))


class StitchedMaps:
    """Lazy sequence of one run's N anomaly maps: indexing stitches a map and does not store it.

    `maps` is (M, G, G), the tiles' maps image by image; `grids` is (N, 2), the rows and columns of
    each image's tiles, and `sides` (N,) their side relative to the image's shorter side; `shapes`
    has N pairs (H_i, W_i); `blur` as in `stitch_tiles`. Item i is (H_i, W_i) float32.
    """

    def __init__(
        self,
        maps: np.ndarray,
        grids: np.ndarray,
        sides: np.ndarray,
        shapes: Sequence[tuple[int, int]],
        blur: float = 0.0,
    ):
        self.maps = np.split(maps, grids.prod(axis=1).cumsum()[:-1])
        self.grids, self.sides, self.shapes = grids.tolist(), sides.tolist(), shapes
        self.blur = blur

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        geometry = self.shapes[index], self.grids[index], self.sides[index]
        return stitch_tiles(self.maps[index], *geometry, self.blur)

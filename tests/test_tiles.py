import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from datasets.tiles import (
    STRIDE,
    TileCountError,
    check_tile_count,
    tile_boxes,
    tile_grid,
    tile_side,
)
from utils.evaluation.stitching import StitchedMaps, stitch_tiles


@pytest.mark.parametrize(
    ("shape", "boxes"),
    [
        ((240, 240), [(0, 0, 240)]),
        ((240, 360), [(0, 0, 240), (0, 120, 240)]),
        ((360, 240), [(0, 0, 240), (120, 0, 240)]),
        ((240, 241), [(0, 0, 240), (0, 1, 240)]),
        ((240, 720), [(0, 0, 240), (0, 160, 240), (0, 320, 240), (0, 480, 240)]),
    ],
)
def test_tiles_cover_the_longer_side_evenly(shape, boxes):
    assert tile_boxes(*shape, 240, tile_grid(*shape, 240)) == boxes


def test_tiles_reach_both_ends_and_overlap_by_a_fifth():
    for width in range(240, 1500, 7):
        boxes = tile_boxes(240, width, 240, tile_grid(240, width, 240))
        starts = [left for _, left, _ in boxes]
        assert starts[0] == 0
        assert starts[-1] == width - 240
        assert all(b - a <= STRIDE * 240 + 1 for a, b in itertools.pairwise(starts))


def test_a_square_map_is_upsampled_bilinearly():
    # Two cells, 0 and 1, become four pixels; the outer two lie beyond both cell centres.
    stitched = stitch_tiles(np.array([[[0.0, 1.0], [0.0, 1.0]]]), (4, 4), (1, 1))
    np.testing.assert_allclose(stitched[0], [0, 0.25, 0.75, 1.0])


def test_the_map_of_a_squashed_image_is_stretched():
    stitched = stitch_tiles(np.array([[[0.0, 1.0], [0.0, 1.0]]]), (2, 4), (1, 1))
    np.testing.assert_allclose(stitched, [[0, 0.25, 0.75, 1.0]] * 2)


def test_overlapping_tiles_are_averaged():
    # Tiles of side 4 start at 0 and 2 of 6; both cover columns 2 and 3, where 1 and 3 average 2.
    maps = np.stack([np.full((3, 3), 1.0), np.full((3, 3), 3.0)])
    np.testing.assert_allclose(stitch_tiles(maps, (4, 6), (1, 2))[0], [1, 1, 2, 2, 3, 3])
    np.testing.assert_allclose(stitch_tiles(maps, (6, 4), (2, 1))[:, 0], [1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("tall", [False, True])
def test_a_peak_in_a_tile_is_at_the_same_point_of_the_stitched_map(tall):
    shape = (1500, 1000) if tall else (1000, 1500)
    maps = np.zeros((2, 15, 15), np.float32)
    maps[1, 7, 7] = 1  # the centre of the second tile, which starts at 500 of the longer side
    grid = (2, 1) if tall else (1, 2)
    row, column = np.unravel_index(np.argmax(stitch_tiles(maps, shape, grid)), shape)
    along, across = (row, column) if tall else (column, row)
    assert abs(along - 1000) <= 34
    assert abs(across - 500) <= 34


def test_stitched_maps_have_the_shape_of_each_image():
    maps = np.arange(4 * 4, dtype=np.float32).reshape(4, 2, 2)
    grids = np.array([(1, 1), (1, 2), (1, 1)])
    sequence = StitchedMaps(maps, grids, np.ones(3), [(6, 6), (4, 6), (5, 5)])
    assert len(sequence) == 3
    assert [stitched.shape for stitched in sequence] == [(6, 6), (4, 6), (5, 5)]
    np.testing.assert_array_equal(sequence[1], stitch_tiles(maps[1:3], (4, 6), (1, 2)))
    with pytest.raises(IndexError):
        sequence[3]


def test_a_blur_has_the_size_of_patches_along_both_axes():
    # AnomalyCLIP's: 4 pixels at 518 x 518 pixels of 37 x 37 patches, so 1 by 2 pixels here.
    grid = np.random.default_rng(0).random((1, 37, 37)).astype(np.float32)
    shape = (round(37 * 14 / 4), round(37 * 14 / 2))
    whole = np.ones((1, 2), int), np.ones(1)
    plain, blurred = (StitchedMaps(grid, *whole, [shape], blur)[0] for blur in (0, 4 / 14))
    sigma = 4 / 14 * np.divide(shape, 37)
    np.testing.assert_allclose(sigma, [1, 2], rtol=0.01)
    np.testing.assert_array_equal(blurred, gaussian_filter(plain, sigma))
    # Tiles of side 30 overlap in a map of 30 x 45: their patches have 2 pixels, whatever the grid.
    tiles = np.random.default_rng(1).random((2, 15, 15)).astype(np.float32)
    plain, blurred = (stitch_tiles(tiles, (30, 45), (1, 2), 1.0, blur) for blur in (0, 0.5))
    np.testing.assert_array_equal(blurred, gaussian_filter(plain, 1.0))


def test_tiles_of_a_fixed_side_cover_both_sides_of_an_image():
    for height, width in itertools.product((200, 333, 500, 990), (200, 411, 777)):
        side = tile_side(height, width, 200)
        covered = np.zeros((height, width), int)
        for top, left, edge in tile_boxes(height, width, side, tile_grid(height, width, side)):
            covered[top : top + edge, left : left + edge] += 1
        assert side == 200
        assert covered.min() == 1 or height == width == 200
    assert tile_side(150, 777, 200) == 150  # never beyond the shorter side
    assert tile_side(150, 777) == 150


def test_a_peak_in_a_tile_of_a_grid_is_at_the_same_point_of_the_stitched_map():
    shape, side = (900, 1300), 300
    grid = tile_grid(*shape, side)
    boxes = tile_boxes(*shape, side, grid)
    maps = np.zeros((len(boxes), 15, 15), np.float32)
    maps[7, 7, 7] = 1  # the centre of the eighth tile
    stitched = stitch_tiles(maps, shape, grid, side / min(shape))
    row, column = np.unravel_index(np.argmax(stitched), shape)
    assert abs(row - boxes[7][0] - 150) <= 10
    assert abs(column - boxes[7][1] - 150) <= 10


def test_an_image_of_too_many_tiles_is_refused_without_options_that_a_script_may_lack():
    with pytest.raises(TileCountError, match=r"more than 32; crop it$"):
        check_tile_count(Path("a.png"), (10**5, 10), "tile", 0)
    with pytest.raises(TileCountError, match=r"more than 512; set --tile to 32 or more$"):
        check_tile_count(Path("a.png"), (640, 480), "tile", 31)
    check_tile_count(Path("a.png"), (640, 480), "tile", 32)

import itertools

import numpy as np
import pytest

from datasets.tiles import STRIDE, tile_boxes, tile_count
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
    assert tile_boxes(*shape, tile_count(*shape)) == boxes


def test_tiles_reach_both_ends_and_overlap_by_a_fifth():
    for width in range(240, 1500, 7):
        boxes = tile_boxes(240, width, tile_count(240, width))
        starts = [left for _, left, _ in boxes]
        assert starts[0] == 0
        assert starts[-1] == width - 240
        assert all(b - a <= STRIDE * 240 + 1 for a, b in itertools.pairwise(starts))


def test_a_square_map_is_upsampled_bilinearly():
    # Two cells, 0 and 1, become four pixels; the outer two lie beyond both cell centres.
    stitched = stitch_tiles(np.array([[[0.0, 1.0], [0.0, 1.0]]]), 4, 4)
    np.testing.assert_allclose(stitched[0], [0, 0.25, 0.75, 1.0])


def test_the_map_of_a_squashed_image_is_stretched():
    stitched = stitch_tiles(np.array([[[0.0, 1.0], [0.0, 1.0]]]), 2, 4)
    np.testing.assert_allclose(stitched, [[0, 0.25, 0.75, 1.0]] * 2)


def test_overlapping_tiles_are_averaged():
    # Tiles of side 4 start at 0 and 2 of 6; both cover columns 2 and 3, where 1 and 3 average 2.
    maps = np.stack([np.full((3, 3), 1.0), np.full((3, 3), 3.0)])
    np.testing.assert_allclose(stitch_tiles(maps, 4, 6)[0], [1, 1, 2, 2, 3, 3])
    np.testing.assert_allclose(stitch_tiles(maps, 6, 4)[:, 0], [1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("tall", [False, True])
def test_a_peak_in_a_tile_is_at_the_same_point_of_the_stitched_map(tall):
    shape = (1500, 1000) if tall else (1000, 1500)
    maps = np.zeros((2, 15, 15), np.float32)
    maps[1, 7, 7] = 1  # the centre of the second tile, which starts at 500 of the longer side
    row, column = np.unravel_index(np.argmax(stitch_tiles(maps, *shape)), shape)
    along, across = (row, column) if tall else (column, row)
    assert abs(along - 1000) <= 34
    assert abs(across - 500) <= 34


def test_stitched_maps_have_the_shape_of_each_image():
    maps = np.arange(4 * 4, dtype=np.float32).reshape(4, 2, 2)
    sequence = StitchedMaps(maps, np.array([1, 2, 1]), [(6, 6), (4, 6), (5, 5)])
    assert len(sequence) == 3
    assert [stitched.shape for stitched in sequence] == [(6, 6), (4, 6), (5, 5)]
    np.testing.assert_array_equal(sequence[1], stitch_tiles(maps[1:3], 4, 6))
    with pytest.raises(IndexError):
        sequence[3]

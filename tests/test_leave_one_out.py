import pytest
import torch
from torch.nn import functional as F

from models import leave_one_out as module
from models.leave_one_out import ReferenceTiles, lazy_maxima, leave_one_out_distances
from models.winclip import VisualBank, half_distance

GRID, SCALES = (5, 6), (2, 3)
COUNTS = (4 * 5, 3 * 4, 5 * 6)


def make_tiles(image_of_row: list[int], noise: float, seed: int = 0) -> ReferenceTiles:
    """Tiles of similar images: the same random vectors at each position, with noise added."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    rows = len(image_of_row)
    entries = tuple(
        F.normalize(draw(1, count, 16) + noise * draw(rows, count, 16), dim=-1) for count in COUNTS
    )
    zero_shot = torch.rand(rows, *GRID, generator=generator) / 5
    return ReferenceTiles(VisualBank(entries), zero_shot, torch.tensor(image_of_row), SCALES)


def distances_by_loops(tiles: ReferenceTiles) -> list[torch.Tensor]:
    images = tiles.image_of_row
    return [
        torch.stack(
            [
                half_distance((own @ entries[images != image].flatten(0, 1).T).amax(dim=-1))
                for own, image in zip(entries, images, strict=True)
            ]
        )
        for entries in tiles.visual.entries
    ]


@pytest.mark.parametrize("block", [1, 4, 8])
def test_distances_are_those_to_the_tiles_of_all_other_images(monkeypatch, block):
    monkeypatch.setattr(module, "PAIRED_TILES", block)
    tiles = make_tiles([0, 0, 1, 2, 2, 2], noise=1)
    expected = distances_by_loops(tiles)
    for rows in ([*range(6)], [1, 5]):
        actual = leave_one_out_distances(tiles, rows)
        shares = [leave_one_out_distances(tiles, rows, (k, 3)) for k in range(3)]
        for scale, loops in enumerate(expected):
            torch.testing.assert_close(actual[scale][rows], loops[rows], atol=1e-6, rtol=0)
            together = torch.stack([share[scale] for share in shares]).amin(dim=0)
            assert torch.equal(together, actual[scale])


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
@pytest.mark.parametrize(
    "image_of_row", [[0, 1], [0, 1, 2], [0, 0, 0, 1, 2, 2], [*range(40)], [0] * 30 + [1] * 10]
)
def test_lazy_maxima_are_those_of_all_pairs(monkeypatch, image_of_row, noise):
    """Noise 0 gives duplicates; with noise 3, no image resembles another."""
    monkeypatch.setattr(module, "MAX_SHARE", 1)
    tiles = make_tiles(image_of_row, noise)
    expected = tiles.maps(distances_by_loops(tiles)).amax(dim=-1)
    actual = lazy_maxima(tiles)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    shares = torch.stack([lazy_maxima(tiles, (k, 3)) for k in range(3)])
    assert torch.equal(shares.amax(dim=0), actual)


def count_pairs(monkeypatch, tiles: ReferenceTiles) -> tuple[torch.Tensor, float]:
    """Return the lazy maxima and which share of all pairs was computed, without the bounds."""
    computed, compute = [], module.nearest_cosines

    def counted(queries, references):
        computed.append(len(queries) * references[..., 0].numel())
        return compute(queries, references)

    monkeypatch.setattr(module, "nearest_cosines", counted)
    total = sum((len(tiles.image_of_row) * count) ** 2 for count in COUNTS)
    return lazy_maxima(tiles), sum(computed) / total


def test_similar_images_need_few_pairs(monkeypatch):
    monkeypatch.setattr(module, "MAX_SHARE", 1)
    tiles = make_tiles([*range(60)], noise=0.3)
    _, share = count_pairs(monkeypatch, tiles)
    assert 0 < share < 0.5  # one position and its windows are 0.27 of the pairs of this small grid


def test_unlike_images_are_left_out_before_they_cost_more_than_the_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_SHARE", 0.4)
    similar, unlike = (make_tiles([*range(40)], noise) for noise in (0.3, 3.0))
    entries = zip(similar.visual.entries, unlike.visual.entries, strict=True)
    mixed = VisualBank(tuple(torch.cat([a[:30], b[30:]]) for a, b in entries))
    tiles = ReferenceTiles(mixed, similar.zero_shot_maps, similar.image_of_row, SCALES)
    maxima, share = count_pairs(monkeypatch, tiles)
    missing = maxima[0] < 0
    assert torch.equal(missing, maxima[1] < 0)
    assert missing[30:].any() and not missing.all()
    assert share < 0.4
    expected = tiles.maps(distances_by_loops(tiles)).amax(dim=-1)
    torch.testing.assert_close(maxima[:, ~missing], expected[:, ~missing], atol=1e-6, rtol=0)


def test_progress_is_shown_for_each_block():
    tiles, blocks = make_tiles([*range(70)], noise=0.3), []

    def track(work):
        for block in work:
            blocks.append(block)
            yield block

    lazy_maxima(tiles, track=track)
    assert list(map(len, blocks)) == [32, 32, 6]
    blocks.clear()
    leave_one_out_distances(tiles, range(9), track=track)
    assert len(blocks) == 9 + 8  # 2 of 9 blocks have a tile to compute

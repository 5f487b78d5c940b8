"""Score references leave-one-out, computing only the distances that can affect the result.

Each reference image is scored against all others. A score needs the maximum of a map, whose values
are averages of minima over the references. A minimum over some references is an upper bound of that
over all, and so are averages of such minima. This is lazy evaluation (Minoux, 1978), and early
breaking as in the directed Hausdorff distance (Taha and Hanbury, 2015): compute the position with
the highest bound exactly, and stop where no other bound exceeds an exact value. The first bounds
compare each window with the one at the same position in the other images, usually its nearest:
1/196 of all pairs for windows of 2 x 2 patches.

Example with four positions, of which two are computed:

    bounds                exact   highest exact value   positions that may exceed it
    0.9, 0.5, 0.7, 0.4    none    -                     0, 1, 2, 3
    0.6, 0.5, 0.7, 0.4    0       0.6                   2
    0.6, 0.5, 0.65, 0.4   0, 2    0.65                  none, so 0.65 is the maximum

Tiles that need more than MAX_SHARE of all pairs are left to `leave_one_out_distances`. Shapes are
those of `models.winclip`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.winclip import VisualBank, average_scales, half_distance, nearest_cosines
from models.windows import window_indices

LAZY_TILES = 32  # evaluated together, so that the matrix products are large
MAX_SHARE = 0.12  # of a tile's pairs; each costs twice as much as in `leave_one_out_distances`
PAIRED_TILES = 8  # compared with as many others at a time: 13 MB for 15 x 15 patches

Track = Callable[[Iterable], Iterable]  # passes on the items of a loop and shows its progress
Shard = tuple[int, int]  # (k, n): compute every n-th block of the work, from the k-th on


@dataclass(frozen=True)
class ReferenceTiles:
    """M reference tiles of two or more images; each is compared with the tiles of other images."""

    visual: VisualBank
    zero_shot_maps: Tensor  # (M, G_h, G_w)
    image_of_row: Tensor  # (M,) the index of each tile's image
    scales: tuple[int, ...]  # the windows' sizes in patches

    def maps(self, distances: Sequence[Tensor], rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the visual maps M^W and the anomaly maps of B `rows`: (2, B, N).

        `distances` are those of equation 4, per scale (B, W_s), then (B, N).
        """
        zero_shot = self.zero_shot_maps[rows]
        visual = average_scales(distances, zero_shot.shape[-2:], self.scales)
        return torch.stack([visual, (zero_shot + visual) / 2]).flatten(-2)

    def covers(self) -> list[Tensor]:
        """Mark the patches of each window: per scale (W_s, N), then (N, N); 1.0 or 0.0."""
        grid = self.zero_shot_maps.shape[-2:]
        indices = [window_indices(grid, size) for size in (*self.scales, 1)]
        zeros = self.zero_shot_maps.new_zeros
        return [
            zeros(len(windows), grid.numel()).scatter_(1, windows.to(self.image_of_row.device), 1)
            for windows in indices
        ]


def lazy_maxima(tiles: ReferenceTiles, shard: Shard = (0, 1), track: Track = iter) -> Tensor:
    """Return the maximum of each tile's visual map M^W and of its anomaly map: (2, M).

    Tiles of other shards, and tiles that need more than MAX_SHARE of all pairs, have -1. Values
    are those of `leave_one_out_distances` but for the rounding of products of another shape.
    """
    maxima = tiles.zero_shot_maps.new_full((2, len(tiles.image_of_row)), -1)
    rows = torch.arange(len(tiles.image_of_row), device=tiles.image_of_row.device)
    covers = tiles.covers()
    for block in track(rows.split(LAZY_TILES)[shard[0] :: shard[1]]):
        maxima[:, block] = block_maxima(tiles, block, covers)
    return maxima


def block_maxima(tiles: ReferenceTiles, rows: Tensor, covers: Sequence[Tensor]) -> Tensor:
    """Return the maxima of `lazy_maxima` for B rows: (2, B)."""
    bounds = same_position_distances(tiles, rows)
    exact = [torch.zeros_like(scale, dtype=torch.bool) for scale in bounds]
    pairs = sum(scale.shape[1] ** 2 for scale in bounds)
    count = 1
    while True:
        maps = tiles.maps(bounds, rows)
        known = positions_of_exact(exact, covers)
        best = maps.masked_fill(~known, -1).amax(dim=-1, keepdim=True)
        candidates = (maps > best) & ~known
        highest = maps.masked_fill(~candidates, -1).topk(count)
        chosen = torch.zeros_like(maps).scatter_(-1, highest.indices, 1.0) * candidates
        needed = [
            (chosen.amax(dim=0) @ cover.T > 0) & ~done
            for cover, done in zip(covers, exact, strict=True)
        ]
        cost = sum((n | e).sum(dim=1) * n.shape[1] for n, e in zip(needed, exact, strict=True))
        affordable = cost <= MAX_SHARE * pairs
        needed = [scale & affordable[:, None] for scale in needed]
        if not any(scale.any() for scale in needed):
            return best[..., 0].masked_fill(~affordable, -1)
        for scale, entries in enumerate(tiles.visual.entries):
            row, window = needed[scale].nonzero(as_tuple=True)
            if not len(row):
                continue
            cosines = nearest_cosines(entries[rows[row], window], entries)  # (M, Q)
            same = tiles.image_of_row[:, None] == tiles.image_of_row[rows[row]]
            bounds[scale][row, window] = half_distance(cosines.masked_fill(same, -1).amax(dim=0))
            exact[scale] |= needed[scale]
        count = min(2 * count, maps.shape[-1])


def same_position_distances(tiles: ReferenceTiles, rows: Tensor) -> list[Tensor]:
    """Compare the windows of B `rows` with those at the same positions in all other images.

    Returns upper bounds of equation 4: per scale (B, W_s), then (B, N).
    """
    same = tiles.image_of_row[rows, None] == tiles.image_of_row
    bounds = []
    for entries in tiles.visual.entries:
        cosines = entries[rows].transpose(0, 1) @ entries.permute(1, 2, 0)  # (W, B, M)
        bounds.append(half_distance(cosines.masked_fill(same, -1).amax(dim=-1).T))
    return bounds


def positions_of_exact(exact: Sequence[Tensor], covers: Sequence[Tensor]) -> Tensor:
    """Mark the patches that only windows with an exact distance cover: (B, N) bool."""
    return sum((~e).float() @ cover for e, cover in zip(exact, covers, strict=True)) == 0


def leave_one_out_distances(
    tiles: ReferenceTiles, rows: Sequence[int], shard: Shard = (0, 1), track: Track = iter
) -> list[Tensor]:
    """Compute equation 4 of the tiles in `rows` against all other images: per scale (M, W_s).

    The product of two blocks of tiles serves both directions, so each pair of tiles is multiplied
    once. The distances of other rows are upper bounds. Take the minimum over all shards.
    """
    others = sorted(set(range(len(tiles.image_of_row))) - set(rows))
    blocks = tiles.image_of_row.new_tensor([*rows, *others]).split(PAIRED_TILES)
    first = math.ceil(len(rows) / PAIRED_TILES)  # blocks with tiles in `rows`
    pairs = [(a, b) for i, a in enumerate(blocks[:first]) for b in blocks[i:]]
    nearest = [entries.new_full(entries.shape[:2], -1) for entries in tiles.visual.entries]
    for a, b in track(pairs[shard[0] :: shard[1]]):
        same = tiles.image_of_row[a, None] == tiles.image_of_row[b]
        for entries, scale in zip(tiles.visual.entries, nearest, strict=True):
            products = entries[a].flatten(0, 1) @ entries[b].flatten(0, 1).T
            cosines = products.unflatten(0, (len(a), -1)).unflatten(2, (len(b), -1))  # (A, W, B, W)
            to_b = cosines.amax(dim=3).masked_fill(same[:, None], -1).amax(dim=2)
            to_a = cosines.amax(dim=1).masked_fill(same[..., None], -1).amax(dim=0)
            scale[a] = torch.maximum(scale[a], to_b)
            scale[b] = torch.maximum(scale[b], to_a)
    return [half_distance(scale) for scale in nearest]

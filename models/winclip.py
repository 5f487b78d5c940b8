"""WinCLIP and WinCLIP+: from embeddings to scores (arXiv 2303.14814, sections 4 and 5).

In the paper's notation, f(x) is an image embedding, g(s) a text embedding, and F are the window
embeddings and patch tokens.
Shapes: B images (tiles, if an image is not square), a grid of G_h x G_w = N patches, W_s windows of
scale s, E the joint width, D the width of patch tokens, M rows (tiles) of the visual bank, R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.windows import harmonic_aggregation, harmonic_mean


@dataclass(frozen=True)
class Features:
    """The embeddings of a batch of images, not normalised."""

    image: Tensor  # (B, E) the image embeddings
    windows: tuple[Tensor, ...]  # per scale (B, W_s, E), in the order of `window_indices`
    patches: Tensor  # (B, N, D) the patch tokens that WinCLIP+ compares
    grid: tuple[int, int]  # (G_h, G_w)
    scales: tuple[int, ...]  # the windows' sizes in patches

    @staticmethod
    def concatenate(batches: "Sequence[Features]") -> "Features":
        """Join batches (one or more) along B, in their order."""
        windows = tuple(map(torch.cat, zip(*(batch.windows for batch in batches), strict=True)))
        image = torch.cat([batch.image for batch in batches])
        patches = torch.cat([batch.patches for batch in batches])
        return replace(batches[0], image=image, windows=windows, patches=patches)

    def rows(self, start: int, stop: int) -> "Features":
        """Return the features of the images `start` to `stop` - 1."""
        windows = tuple(scale[start:stop] for scale in self.windows)
        image, patches = self.image[start:stop], self.patches[start:stop]
        return replace(self, image=image, windows=windows, patches=patches)


@dataclass(frozen=True)
class TextBank:
    """The embeddings of the normal and the anomalous state of one category."""

    states: Tensor  # (2, E) of length 1: row 0 normal (s-), row 1 anomalous (s+)
    temperature: float  # tau of equation 1, > 0; 0.07 is CLIP's initial value, as in public code

    @staticmethod
    def from_prompts(
        normal: Tensor, anomalous: Tensor, temperature: float, normalise_prompts: bool
    ) -> "TextBank":
        """Average each state's prompt embeddings (P, E) into one unit vector (section 4.1)."""
        states = []
        for prompts in (normal, anomalous):
            if normalise_prompts:
                prompts = F.normalize(prompts, dim=-1)
            states.append(F.normalize(prompts.mean(dim=0), dim=-1))
        return TextBank(torch.stack(states), temperature)

    def score(self, embeddings: Tensor) -> Tensor:
        """Return the anomalous state's probability: (..., E) to (...) in (0, 1)."""
        cosines = F.normalize(embeddings, dim=-1) @ self.states.T  # <f(x), g(s)>
        return (cosines / self.temperature).softmax(dim=-1)[..., 1]  # equations 1 and 2


@dataclass(frozen=True)
class VisualBank:
    """Unit vectors: the windows of M reference tiles per scale, then their patches."""

    entries: tuple[Tensor, ...]  # per scale (M, W_s, E), then (M, N, D)

    @staticmethod
    def from_features(references: Features) -> "VisualBank":
        """Build the bank of reference images; its rows are in the order of `references`."""
        scales = (*references.windows, references.patches)
        return VisualBank(tuple(F.normalize(scale, dim=-1) for scale in scales))

    def distances(self, features: Features) -> list[Tensor]:
        """Compute equation 4 at every scale: per scale (M, B, W_s), then (M, B, N)."""
        scales = (*features.windows, features.patches)
        return [visual_association_score(*pair) for pair in zip(scales, self.entries, strict=True)]


def winclip(
    features: Features,
    text: TextBank,
    visual: VisualBank | None,
    reference_sets: Sequence[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """Return scores (R, B) and maps (R, B, G_h, G_w), one per reference set, in order.

    A reference set is a tensor of row indices into `visual`; None means zero-shot.
    """
    # Section 4, WinCLIP: compare the image and its windows with the two states.
    zero_shot_scores = text.score(features.image)  # equation 2
    scale_maps = [zero_shot_scores[:, None, None].expand(-1, *features.grid)]
    for windows, size in zip(features.windows, features.scales, strict=True):
        scale_maps.append(harmonic_aggregation(text.score(windows), features.grid, size))  # eq. 3
    zero_shot_maps = harmonic_mean(torch.stack(scale_maps))
    # Section 5, WinCLIP+: compare windows and patches with those of reference images.
    distances = visual.distances(features) if visual else []  # equation 4
    scores, maps = [], []
    for rows in reference_sets:
        if rows is None:
            scores.append(zero_shot_scores)
            maps.append(zero_shot_maps)
        else:
            visual_maps = few_shot_map(distances, rows, features.grid, features.scales)
            scores.append((zero_shot_scores + visual_maps.amax(dim=(-2, -1))) / 2)  # equation 5
            maps.append((zero_shot_maps + visual_maps) / 2)
    return torch.stack(scores), torch.stack(maps)


def visual_association_score(queries: Tensor, references: Tensor) -> Tensor:
    """Compute equation 4 per reference: half the cosine distance to the reference's nearest entry.

    `queries` (B, Q, D), normalised here, `references` (M, K, D) of length 1; returns (M, B, Q) in
    [0, 1]. For a set of references, take the minimum over dimension 0.
    """
    vectors = F.normalize(queries, dim=-1).flatten(0, 1)
    distances = []
    for reference in references:
        nearest = (vectors @ reference.T).amax(dim=-1)  # max <F, r>
        distances.append(((1 - nearest) / 2).clamp(min=0))  # a rounded cosine may exceed 1
    return torch.stack(distances).unflatten(-1, queries.shape[:2])


def few_shot_map(
    distances: Sequence[Tensor], rows: Tensor, grid: tuple[int, int], scales: Sequence[int]
) -> Tensor:
    """Average one set's `VisualBank.distances` over all scales: the map M^W, (B, G_h, G_w)."""
    *windows, patches = (scale[rows].amin(dim=0) for scale in distances)  # min over r in R
    maps = [patches.unflatten(-1, grid)]
    for scores, size in zip(windows, scales, strict=True):
        maps.append(harmonic_aggregation(scores, grid, size))
    return torch.stack(maps).mean(dim=0)


def leave_one_out_scores(
    features: Features,
    tile_counts: Sequence[int],
    first_row: int,
    text: TextBank,
    visual: VisualBank,
) -> Tensor:
    """Score each of I >= 1 reference images against all others: (I,) in [0, 1], mean over tiles.

    `features` holds the tiles of the I images, `tile_counts[i]` for image i. The same tiles are
    consecutive rows of `visual` from `first_row` on. `visual` must also hold another image.
    """
    bank_rows = torch.arange(len(visual.entries[0]), device=features.image.device)
    scores, start = [], 0
    for count in tile_counts:
        first, stop = first_row + start, start + count
        others = torch.cat([bank_rows[:first], bank_rows[first + count :]])
        image_scores, _ = winclip(features.rows(start, stop), text, visual, [others])
        scores.append(image_scores.mean())
        start = stop
    return torch.stack(scores)

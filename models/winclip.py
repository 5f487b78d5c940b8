"""WinCLIP and WinCLIP+: from embeddings to scores (arXiv 2303.14814, sections 4 and 5).

In the paper's notation, f(x) is an image embedding, g(s) a text embedding, and F are the window
embeddings and patch tokens.
Shapes: B images (tiles, if an image is not square), a grid of G_h x G_w = N patches, W_s windows of
scale s, E the joint width, D the width of patch tokens, M rows (tiles) of the visual bank, R runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.windows import harmonic_aggregation, harmonic_mean

CropAverage = Literal["embeddings", "scores"]  # what multi-crop averages over an image's crops

MAX_COSINES = 2**24  # computed at a time in `nearest_cosines`: 64 MiB in fp32


@dataclass(frozen=True)
class Features:
    """The embeddings of a batch of images, not normalised."""

    image: Tensor  # (B, E) the image embeddings
    windows: tuple[Tensor, ...]  # per scale (B, W_s, E), in the order of `window_indices`
    patches: Tensor  # (B, N, D) the patch tokens that WinCLIP+ compares; (B, 0, D) if none
    grid: tuple[int, int]  # (G_h, G_w)
    scales: tuple[int, ...]  # the windows' sizes in patches
    crops: Tensor | None = None  # (B, C, E) the embeddings of each image's crops, for multi-crop

    @staticmethod
    def concatenate(batches: "Sequence[Features]") -> "Features":
        """Join batches (one or more) along B, in their order."""
        windows = tuple(map(torch.cat, zip(*(batch.windows for batch in batches), strict=True)))
        image = torch.cat([batch.image for batch in batches])
        patches = torch.cat([batch.patches for batch in batches])
        crops = None
        if batches[0].crops is not None:
            crops = torch.cat([batch.crops for batch in batches])
        return replace(batches[0], image=image, windows=windows, patches=patches, crops=crops)


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
    """The embeddings of M reference tiles, in tensors with one row for each tile.

    WinCLIP has unit vectors: the windows per scale (M, W_s, E), then the patches (M, N, D).
    """

    entries: tuple[Tensor, ...]

    @staticmethod
    def from_features(references: Features) -> "VisualBank":
        """Build the bank of reference images; its rows are in the order of `references`."""
        embeddings = (*references.windows, references.patches)
        return VisualBank(tuple(F.normalize(scale, dim=-1) for scale in embeddings))

    def distances(self, features: Features) -> list[Tensor]:
        """Compute equation 4 at every scale: per scale (M, B, W_s), then (M, B, N)."""
        queries = (*features.windows, features.patches)
        return [visual_association_score(*pair) for pair in zip(queries, self.entries, strict=True)]


def winclip(
    features: Features,
    text: TextBank,
    visual: VisualBank | None,
    reference_sets: Sequence[Tensor | None],
    crop_average: CropAverage = "embeddings",
) -> tuple[Tensor, Tensor]:
    """Return scores (R, B) and maps (R, B, G_h, G_w), one per reference set, in order.

    A reference set is a tensor of row indices into `visual`; None means zero-shot. For
    `crop_average`, see `score_crops`.
    """
    # Section 4, WinCLIP: compare the image and its windows with the two states.
    zero_shot = score_zero_shot(features, text, crop_average)
    # Section 5, WinCLIP+: compare windows and patches with those of reference images.
    runs = [zero_shot] * len(reference_sets)
    few_shot = [run for run, rows in enumerate(reference_sets) if rows is not None]
    if few_shot:
        sets = [reference_sets[run] for run in few_shot]
        distances = nearest_distances(visual.distances(features), sets)  # equation 4
        visual_maps = average_scales(distances, features.grid, features.scales)
        scores, maps = add_visual_maps(zero_shot, visual_maps)
        for index, run in enumerate(few_shot):
            runs[run] = scores[index], maps[index]
    scores, maps = map(torch.stack, zip(*runs, strict=True))
    return scores, maps


def score_zero_shot(
    features: Features, text: TextBank, crop_average: CropAverage = "embeddings"
) -> tuple[Tensor, Tensor]:
    """Return WinCLIP's scores (B,) and maps (B, G_h, G_w).

    For `crop_average`, see `score_crops`; the maps do not depend on crops.
    """
    scores = text.score(features.image)  # equation 2
    maps = [scores[:, None, None].expand(-1, *features.grid)]
    for windows, size in zip(features.windows, features.scales, strict=True):
        maps.append(harmonic_aggregation(text.score(windows), features.grid, size))  # equation 3
    if features.crops is not None:
        scores = score_crops(features.crops, text, crop_average)
    return scores, harmonic_mean(torch.stack(maps))


def score_crops(crops: Tensor, text: TextBank, average: CropAverage) -> Tensor:
    """Score images by the embeddings of their crops: (B, C, E) to (B,).

    Multi-crop is a step of the paper that it does not define (docs/protocol.md). Either the unit
    embeddings of an image's crops are averaged and the mean is scored, or the scores are averaged.
    """
    if average == "scores":
        return text.score(crops).mean(dim=1)
    return text.score(F.normalize(crops, dim=-1).mean(dim=1))


def visual_association_score(queries: Tensor, references: Tensor) -> Tensor:
    """Compute equation 4 per reference: half the cosine distance to the reference's nearest entry.

    `queries` (B, Q, D), normalised here, `references` (M, K, D) of length 1; returns (M, B, Q) in
    [0, 1]. For a set of references, take the minimum over dimension 0.
    """
    cosines = nearest_cosines(F.normalize(queries, dim=-1).flatten(0, 1), references)
    return half_distance(cosines).unflatten(-1, queries.shape[:2])


def nearest_cosines(queries: Tensor, references: Tensor) -> Tensor:
    """Return the highest cosine <F, r> with an entry of each reference: (M, Q).

    `queries` (Q, D) and `references` (M, K, D) have length 1.
    """
    count = max(1, MAX_COSINES // (len(queries) * references.shape[1]))
    return torch.cat([(queries @ chunk.mT).amax(dim=-1) for chunk in references.split(count)])


def half_distance(cosines: Tensor) -> Tensor:
    """Return half the cosine distance, in [0, 1]: a rounded cosine may exceed 1."""
    return ((1 - cosines) / 2).clamp(min=0)


def nearest_distances(
    distances: Sequence[Tensor], reference_sets: Sequence[Tensor]
) -> list[Tensor]:
    """Take the minimum over each of R reference sets: per scale (M, B, W_s) to (R, B, W_s).

    A set is a tensor of one or more row indices in 0..M-1.
    """
    longest = max(map(len, reference_sets))
    padded = [torch.cat([rows, rows[:1].expand(longest - len(rows))]) for rows in reference_sets]
    rows = torch.stack(padded)  # a repeated row does not change a minimum
    return [scale[rows].amin(dim=1) for scale in distances]  # min over r in R


def average_scales(
    distances: Sequence[Tensor], grid: tuple[int, int], scales: Sequence[int]
) -> Tensor:
    """Average distances to the references over all scales: the map M^W, (..., G_h, G_w).

    `distances` are per scale (..., W_s), then (..., N).
    """
    *windows, patches = distances
    maps = [patches.unflatten(-1, grid)]
    for window_distances, size in zip(windows, scales, strict=True):
        maps.append(harmonic_aggregation(window_distances, grid, size))
    return torch.stack(maps).mean(dim=0)


def add_visual_maps(zero_shot: tuple[Tensor, Tensor], visual_maps: Tensor) -> tuple[Tensor, Tensor]:
    """Turn WinCLIP's scores (B,) and maps into WinCLIP+'s, (R, B) and (R, B, G_h, G_w).

    `visual_maps` (R, B, G_h, G_w) come from `average_scales`.
    """
    scores, maps = zero_shot
    return (scores + visual_maps.amax(dim=(-2, -1))) / 2, (maps + visual_maps) / 2  # equation 5

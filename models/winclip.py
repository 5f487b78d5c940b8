"""WinCLIP and WinCLIP+: from embeddings to scores (arXiv 2303.14814, sections 4 and 5).

The paper's f(x) are image embeddings, g(s) text embeddings; F are windows' embeddings and patch
tokens. Tensors in, tensors out: nothing here knows a path, a dataset or a model.

Shapes: B images (tiles, where an image is not square), G_h x G_w the grid of patches, N of them;
W_s windows of scale s; E the joint width, D the width of patch tokens; R reference images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.windows import harmonic_aggregation, harmonic_mean


@dataclass(frozen=True)
class Features:
    """What the encoder gives for a batch of images, at the lengths the encoder gives them."""

    image: Tensor  # (B, E) the image embeddings
    windows: tuple[Tensor, ...]  # per scale (B, W_s, E), in the order of `window_indices`
    patches: Tensor  # (B, N, D) the patch tokens that WinCLIP+ compares
    grid: tuple[int, int]  # (G_h, G_w)
    scales: tuple[int, ...]  # the windows' sizes in patches

    @staticmethod
    def concatenate(parts: "Sequence[Features]") -> "Features":
        """The images of all parts, in their order."""
        return Features(
            torch.cat([part.image for part in parts]),
            tuple(
                torch.cat(scale) for scale in zip(*(part.windows for part in parts), strict=True)
            ),
            torch.cat([part.patches for part in parts]),
            parts[0].grid,
            parts[0].scales,
        )


@dataclass(frozen=True)
class TextBank:
    """The embeddings of the normal and of the anomalous state of one class, (2, E), length 1."""

    states: Tensor  # row 0 normal (s-), row 1 anomalous (s+)
    temperature: float  # tau of equation 1, > 0

    @staticmethod
    def from_prompts(
        normal: Tensor, anomalous: Tensor, temperature: float, normalise_prompts: bool
    ) -> "TextBank":
        """Average the prompt embeddings (P, E) of each state into one direction (section 4.1)."""
        states = []
        for prompts in (normal, anomalous):
            if normalise_prompts:
                prompts = F.normalize(prompts, dim=-1)
            states.append(F.normalize(prompts.mean(dim=0), dim=-1))
        return TextBank(torch.stack(states), temperature)

    def score(self, embeddings: Tensor) -> Tensor:
        """Equations 1 and 2: the anomalous state's probability; (..., E) to (...) in (0, 1)."""
        cosines = F.normalize(embeddings, dim=-1) @ self.states.T  # <f(x), g(s)>
        return (cosines / self.temperature).softmax(dim=-1)[..., 1]


def zero_shot(features: Features, bank: TextBank) -> tuple[Tensor, Tensor]:
    """WinCLIP: image scores (B,) and maps (B, G_h, G_w), both in (0, 1)."""
    image_scores = bank.score(features.image)  # ascore_0, equation 2
    maps = [image_scores[:, None, None].expand(-1, *features.grid)]  # the scale of the whole image
    for windows, size in zip(features.windows, features.scales, strict=True):
        maps.append(harmonic_aggregation(bank.score(windows), features.grid, size))  # equation 3
    return image_scores, harmonic_mean(torch.stack(maps))


def visual_association_score(queries: Tensor, references: Tensor) -> Tensor:
    """Equation 4 per reference image: half the smallest cosine distance to any of its entries.

    `queries` (B, Q, D) of any length, `references` (R, K, D) of length 1; returns (R, B, Q) in
    [0, 1]. The paper's minimum over a set of references is the minimum over rows of dimension 0.
    """
    rows = F.normalize(queries, dim=-1).flatten(0, 1)
    distances = []
    for reference in references:
        nearest = (rows @ reference.T).amax(dim=-1)  # max <F, r>
        distances.append(((1 - nearest) / 2).clamp(min=0))  # rounding may pass a cosine of 1
    return torch.stack(distances).unflatten(-1, queries.shape[:2])


@dataclass(frozen=True)
class VisualBank:
    """The reference images' windows per scale, then their patches, each (R, K, D) of length 1.

    R is the number of reference images (tiles); every set of references is a choice of rows.
    """

    entries: tuple[Tensor, ...]

    @staticmethod
    def from_features(references: Features) -> "VisualBank":
        """The bank of some reference images' features."""
        scales = (*references.windows, references.patches)
        return VisualBank(tuple(F.normalize(scale, dim=-1) for scale in scales))

    def distances(self, features: Features) -> list[Tensor]:
        """Equation 4 at every scale: windows per scale (R, B, W_s), then patches (R, B, N)."""
        scales = (*features.windows, features.patches)
        return [visual_association_score(*pair) for pair in zip(scales, self.entries, strict=True)]


def few_shot_map(
    distances: Sequence[Tensor], rows: Tensor, grid: tuple[int, int], scales: Sequence[int]
) -> Tensor:
    """WinCLIP+'s M^W: the mean over windows' and patches' scales; (B, G_h, G_w) in [0, 1].

    `distances` from `VisualBank.distances`; `rows` chooses the reference set.
    """
    *windows, patches = (scale[rows].amin(dim=0) for scale in distances)  # min over r in R
    maps = [patches.unflatten(-1, grid)]
    for scores, size in zip(windows, scales, strict=True):
        maps.append(harmonic_aggregation(scores, grid, size))
    return torch.stack(maps).mean(dim=0)


def few_shot(
    zero_shot_scores: Tensor, zero_shot_maps: Tensor, visual_maps: Tensor
) -> tuple[Tensor, Tensor]:
    """WinCLIP+: image scores (B,), equation 5, and maps (B, G_h, G_w), both in [0, 1]."""
    image_scores = (zero_shot_scores + visual_maps.amax(dim=(-2, -1))) / 2  # equation 5
    return image_scores, (zero_shot_maps + visual_maps) / 2

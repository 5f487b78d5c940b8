"""The encoder's output, before one kind of patch tokens is selected."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from models.winclip import Features

# The patch tokens that WinCLIP+ compares: the last block's, after the tower's last normalisation
# (as open_clip returns them) or before it, or those of the block before the last.
PatchTokens = Literal["post_ln", "pre_ln", "penultimate"]
EXACT = "fp32"  # the precision in which kept features are not rounded


@dataclass(frozen=True)
class AllFeatures:
    """The embeddings of a batch of images with all kinds of patch tokens, not normalised.

    The tokens after ln_post are computed from those before it.
    """

    image: Tensor  # (B, E) the image embeddings
    windows: tuple[Tensor, ...]  # per scale (B, W_s, E), in the order of `window_indices`
    pre_ln: Tensor  # (B, N, D) the last block's patch tokens before ln_post
    penultimate: Tensor  # (B, N, D) the patch tokens of the block before the last
    ln_post: nn.Module  # the tower's last normalisation, on the device of the tensors
    grid: tuple[int, int]  # (G_h, G_w)
    scales: tuple[int, ...]  # the windows' sizes in patches
    crops: Mapping[str, Tensor] = field(default_factory=dict)  # multi-crop variant to (B, C, E)

    @torch.inference_mode()
    def select(self, patch_tokens: PatchTokens, multi_crop: str = "none") -> Features:
        """Return float32 features with the given patch tokens and the crops of one variant."""
        if patch_tokens == "post_ln":
            weight = next(self.ln_post.parameters(), self.pre_ln)  # some towers have no ln_post
            patches = self.ln_post(self.pre_ln.to(weight.dtype))
        else:
            patches = self.pre_ln if patch_tokens == "pre_ln" else self.penultimate
        windows = tuple(scale.float() for scale in self.windows)
        crops = None if multi_crop == "none" else self.crops[multi_crop].float()
        return Features(self.image.float(), windows, patches.float(), self.grid, self.scales, crops)

    def map(self, function: Callable[[Tensor], Tensor]) -> "AllFeatures":
        """Return a copy with `function` applied to every tensor, such as a slice or a cast."""
        return replace(
            self,
            image=function(self.image),
            windows=tuple(map(function, self.windows)),
            pre_ln=function(self.pre_ln),
            penultimate=function(self.penultimate),
            crops={name: function(crops) for name, crops in self.crops.items()},
        )

    @staticmethod
    def concatenate(batches: "Sequence[AllFeatures]") -> "AllFeatures":
        """Join batches (one or more) along B, in their order; all have the same crops."""
        return replace(
            batches[0],
            image=torch.cat([batch.image for batch in batches]),
            windows=tuple(map(torch.cat, zip(*(b.windows for b in batches), strict=True))),
            pre_ln=torch.cat([batch.pre_ln for batch in batches]),
            penultimate=torch.cat([batch.penultimate for batch in batches]),
            crops={name: torch.cat([b.crops[name] for b in batches]) for name in batches[0].crops},
        )

"""CLIP's vision tower, applied to an image and all of its windows in one pass.

A window is embedded as the class token's output when the tower sees only that window's patches
(section 4.2). Dropping the other patches before the transformer is exact, because patches interact
only in its attention; positional embeddings and ln_pre are applied first, as in the full forward
pass.

All sequences lie side by side in one list of tokens, so that each layer runs once. For a grid of
15 x 15 and windows of 2 and 3 patches, it holds 2,896 tokens in 366 sequences:

    full image       1 sequence  of 1 class token + 225 patches =   226 tokens
    2 x 2 windows  196 sequences of 1 class token +   4 patches =   980 tokens (196 x 5)
    3 x 3 windows  169 sequences of 1 class token +   9 patches = 1,690 tokens (169 x 10)

open_clip's modules and weights compute everything. What sequences share (patch embedding, ln_pre,
the first block's queries, keys and values) is computed once; the last block computes only the
tokens that are read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from models.blocks import (
    attend,
    attend_from_class_token,
    finish_block,
    has_plain_blocks,
    project_qkv,
)
from models.winclip import Features
from models.windows import window_indices
from utils.errors import InputError

# The patch tokens that WinCLIP+ compares: the last block's, after the tower's last normalisation
# (as open_clip returns them) or before it, or those of the block before the last.
PatchTokens = Literal["post_ln", "pre_ln", "penultimate"]


class WindowedEncoder:
    """Embed images and their windows with a frozen vision tower (`model.visual` of open_clip).

    `scales` are the windows' sizes in patches. `tf32` runs fp32 matrix products in TF32 on CUDA.
    Raises InputError for a tower that is not a plain transformer with a class token and two or
    more blocks, and for a scale that does not fit its grid.
    """

    def __init__(
        self,
        visual: nn.Module,
        scales: Sequence[int] = (2, 3),
        patch_tokens: PatchTokens = "post_ln",
        tf32: bool = False,
    ):
        check_tower(visual)
        self.visual = visual.eval()
        self.scales = tuple(scales)
        self.patch_tokens = patch_tokens
        self.tf32 = tf32
        self.grid = tuple(visual.grid_size)
        largest = min(self.grid)
        if any(not 1 <= size <= largest for size in self.scales):
            raise InputError(
                f"SCALES = {self.scales}: a window of this model is 1 to {largest} patches wide"
            )
        self._lay_out_sequences()

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.visual.class_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights, in which products are computed."""
        return self.visual.class_embedding.dtype

    def _lay_out_sequences(self) -> None:
        """Precompute the token indices of the layout in the module docstring."""
        patches = self.grid[0] * self.grid[1]
        # Each sequence starts with the class token, index 0; patch p is token p + 1.
        groups = [torch.arange(patches + 1)[None]]
        for size in self.scales:
            groups.append(F.pad(window_indices(self.grid, size) + 1, (1, 0), value=0))
        self.group_shapes = [tuple(group.shape) for group in groups]  # (sequences, tokens in each)
        self.group_tokens = [count * length for count, length in self.group_shapes]
        self.token_index = torch.cat([group.flatten() for group in groups]).to(self.device)
        lengths = torch.tensor(
            [length for count, length in self.group_shapes for _ in range(count)]
        )
        starts = F.pad(lengths.cumsum(0)[:-1], (1, 0))  # the index of each sequence's class token
        # The last block computes all class tokens, and the full image's patches if they are read.
        self.full_outputs = 1 if self.patch_tokens == "penultimate" else patches + 1
        self.output_index = torch.cat([torch.arange(self.full_outputs), starts[1:]]).to(self.device)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Features:
        """Embed B images and all their windows.

        `pixels` (B, 3, H, W), normalised as open_clip's transform does; returns float32 features.
        """
        with tf32_matmul(self.tf32):
            tokens = embed_patches(self.visual, pixels.to(self.device, self.dtype))
            classes, patches = self._run_blocks(tokens)
            embeddings = (self.visual.ln_post(classes) @ self.visual.proj).float()
        image, *windows = embeddings.split([count for count, _ in self.group_shapes], dim=1)
        patches = patches.to(torch.float32, copy=True)  # a view would keep all tokens in memory
        return Features(image[:, 0], tuple(windows), patches, self.grid, self.scales)

    def _run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run all blocks: tokens (B, 1 + N, D) to class tokens (B, S, D), patches (B, N, D)."""
        first, *middle, last = self.visual.transformer.resblocks
        shared_qkv = project_qkv(first, tokens)  # once per patch, for all windows
        x = tokens[:, self.token_index]
        x = finish_block(
            first, x, self._attend(first, *(t[:, self.token_index] for t in shared_qkv))
        )
        for block in middle:
            x = finish_block(block, x, self._attend(block, *project_qkv(block, x)))
        full = tokens.shape[1]
        penultimate = x[:, 1:full]
        x = self._last_block(last, x)
        classes = torch.cat([x[:, :1], x[:, self.full_outputs :]], dim=1)
        if self.patch_tokens == "penultimate":
            return classes, penultimate
        patches = x[:, 1:full]
        return classes, self.visual.ln_post(patches) if self.patch_tokens == "post_ln" else patches

    def _attend(self, block: nn.Module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Compute attention within each sequence: (B, T, D) to (B, T, D)."""
        groups = (tokens.split(self.group_tokens, dim=1) for tokens in (queries, keys, values))
        counts, heads = (count for count, _ in self.group_shapes), block.attn.num_heads
        attended = [attend(*group, heads) for group in zip(*groups, counts, strict=True)]
        return torch.cat(attended, dim=1)

    def _last_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """Run the last block for the tokens that are read: (B, T, D) to (B, T_read, D)."""
        full, *windows = x.split(self.group_tokens, dim=1)
        queries, keys, values = project_qkv(block, full)
        attended = [attend(queries[:, : self.full_outputs], keys, values, 1, block.attn.num_heads)]
        for tokens, (count, _) in zip(windows, self.group_shapes[1:], strict=True):
            attended.append(attend_from_class_token(block, tokens, count))
        return finish_block(block, x[:, self.output_index], torch.cat(attended, dim=1))


def embed_patches(visual: nn.Module, pixels: Tensor) -> Tensor:
    """Embed class token and patches, with positions and ln_pre: (B, 3, H, W) to (B, 1 + N, D)."""
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    classes = visual.class_embedding.expand(len(patches), 1, -1)
    return visual.ln_pre(torch.cat([classes, patches], dim=1) + visual.positional_embedding)


@contextmanager
def tf32_matmul(tf32: bool) -> Iterator[None]:
    """Let CUDA compute fp32 products in tf32 inside the block, if `tf32` is True."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if tf32:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def check_tower(visual: nn.Module) -> None:
    """Raise InputError for a vision tower that cannot embed windows separately."""
    reason = None
    if not isinstance(visual, VisionTransformer):
        reason = f"its vision tower is a {type(visual).__name__}"
    elif len(visual.transformer.resblocks) < 2:
        reason = "its vision tower has a single block"
    elif visual.attn_pool is not None or visual.pool_type != "tok":
        reason = "its image embedding is not the class token's"
    elif not has_plain_blocks(visual):
        reason = "its blocks are not open_clip's plain residual attention blocks"
    if reason:
        raise InputError(
            f"MODEL: {reason}; windows need open_clip's VisionTransformer with a class token, "
            'such as "ViT-B-16-plus-240", "ViT-B-32" or "ViT-L-14"'
        )

"""CLIP's encoders: text, and each image with all of its windows in one pass.

A window's embedding is the class token's, after the vision tower has seen the window's patches
and no others (section 4.2). Dropping patches before the transformer is exact, because they meet
only there; positional embeddings and ln_pre are applied first, as in the full forward.

open_clip's own modules and weights compute everything. What is ours is the order: windows of all
scales and the full image go through each layer as one list of tokens; what windows share (patch
embedding, ln_pre, the first block's normalisation, queries, keys and values) is computed once per
patch; the last block computes only what is read.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from models.blocks import (
    attend,
    attend_from_first,
    finish_block,
    has_plain_blocks,
    in_projection,
    project,
)
from models.device import tf32_matmul
from models.protocols import PatchTokens
from models.text import can_share_beginnings, embed_prompts
from models.winclip import Features
from models.windows import window_indices
from utils.errors import InputError

TEXT_BATCH = 1024  # prompts encoded together; bounds memory, changes no embedding


class WindowedEncoder:
    """A frozen CLIP that embeds text, images and their windows.

    `scales` are the windows' sizes in patches (2 and 3 in the paper); `patch_tokens` says which
    tokens WinCLIP+ gets (`Protocol.patch_tokens`); `tf32` has CUDA round the products of images,
    and of nothing else. A vision tower that is not a transformer with a class token is an
    `InputError`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        scales: Sequence[int] = (2, 3),
        patch_tokens: PatchTokens = "post_ln",
        tf32: bool = False,
    ):
        check_tower(model.visual)
        self.model = model.eval()
        self.visual = model.visual
        self.tokenizer = tokenizer
        self.scales = tuple(scales)
        self.patch_tokens = patch_tokens
        self.tf32 = tf32
        self.grid = tuple(self.visual.grid_size)
        largest = min(self.grid)
        if any(not 1 <= size <= largest for size in self.scales):
            raise InputError(
                f"SCALES = {self.scales}: a window of this model is 1 to {largest} patches wide"
            )
        self._plan_sequences()

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so where images must be."""
        return self.visual.class_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the vision tower's products."""
        return self.visual.class_embedding.dtype

    def _plan_sequences(self) -> None:
        """Lay all sequences out as one list of tokens: the full image, then every window."""
        patches = self.grid[0] * self.grid[1]
        # Each sequence starts with the class token, number 0; patch p is token p + 1.
        groups = [torch.arange(patches + 1)[None]]
        groups += [
            F.pad(window_indices(self.grid, size) + 1, (1, 0), value=0) for size in self.scales
        ]
        self.shapes = [tuple(group.shape) for group in groups]  # (sequences, tokens in each)
        self.sizes = [count * length for count, length in self.shapes]
        self.gather = torch.cat([group.flatten() for group in groups]).to(self.device)
        lengths = torch.tensor([length for count, length in self.shapes for _ in range(count)])
        starts = F.pad(lengths.cumsum(0)[:-1], (1, 0))  # where each sequence's class token stands
        # The last block reads class tokens, and the full image's patches where they are wanted.
        self.full_read = 1 if self.patch_tokens == "penultimate" else patches + 1
        self.read = torch.cat([torch.arange(self.full_read), starts[1:]]).to(self.device)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Features:
        """Embed images and all their windows.

        `pixels` (B, 3, H, W) float, normalised as open_clip's own transform does; returns float32
        features of B images.
        """
        with tf32_matmul(self.tf32):
            tokens = embed_patches(self.visual, pixels.to(self.device, self.dtype))
            classes, patches = self._transform(tokens)
            embeddings = (self.visual.ln_post(classes) @ self.visual.proj).float()
        counts = [count for count, _ in self.shapes]
        image, *windows = embeddings.split(counts, dim=1)
        # A copy: what is kept of an image should not keep all of its tokens.
        patches = patches.to(torch.float32, copy=True)
        return Features(image[:, 0], tuple(windows), patches, self.grid, self.scales)

    def _transform(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks over all sequences: class tokens (B, S, D), patch tokens (B, N, D)."""
        first, *middle, last = self.visual.transformer.resblocks
        queries, keys, values = project(first, tokens)  # once per patch, shared by all windows
        x = tokens[:, self.gather]
        gathered = (shared[:, self.gather] for shared in (queries, keys, values))
        x = finish_block(first, x, self._attend(first, *gathered))
        for block in middle:
            x = finish_block(block, x, self._attend(block, *project(block, x)))
        full = tokens.shape[1]
        penultimate = x[:, 1:full]
        x = self._last_block(last, x)
        classes = torch.cat([x[:, :1], x[:, self.full_read :]], dim=1)
        if self.patch_tokens == "penultimate":
            return classes, penultimate
        patches = x[:, 1:full]
        return classes, self.visual.ln_post(patches) if self.patch_tokens == "post_ln" else patches

    def _last_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """The last block, for the tokens that are read: (B, T, D) to (B, T_read, D)."""
        heads = block.attn.num_heads
        full, *windows = block.ln_1(x).split(self.sizes, dim=1)
        queries, keys, values = in_projection(block.attn, full).chunk(3, dim=-1)
        parts = [attend(queries[:, : self.full_read], keys, values, 1, heads)]
        for tokens, (count, _) in zip(windows, self.shapes[1:], strict=True):
            parts.append(attend_from_first(block.attn, tokens, count))
        return finish_block(block, x[:, self.read], torch.cat(parts, dim=1))

    def _attend(self, block: nn.Module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention within each sequence: (B, T, D) to (B, T, D)."""
        groups = (part.split(self.sizes, dim=1) for part in (queries, keys, values))
        counts, heads = (count for count, _ in self.shapes), block.attn.num_heads
        attended = [attend(*group, heads) for group in zip(*groups, counts, strict=True)]
        return torch.cat(attended, dim=1)

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts: (P, E) float32, not normalised."""
        tokens = self.tokenizer(list(prompts)).to(self.device)
        text = getattr(self.model, "text", self.model)  # newer model classes keep a text tower
        parts = tokens.split(TEXT_BATCH)
        if not can_share_beginnings(text):
            return torch.cat([self.model.encode_text(part).float() for part in parts])
        return torch.cat([embed_prompts(text, part) for part in parts])

    def encode_states(self, *states: Sequence[str]) -> tuple[Tensor, ...]:
        """Embed the prompts of each state, (P, E) each, together: they share beginnings."""
        embeddings = self.encode_text([prompt for prompts in states for prompt in prompts])
        return embeddings.split([len(prompts) for prompts in states])


def embed_patches(visual: nn.Module, pixels: Tensor) -> Tensor:
    """Class token and patches, with positions and ln_pre: (B, 3, H, W) to (B, 1 + N, D)."""
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    classes = visual.class_embedding.expand(len(patches), 1, -1)
    return visual.ln_pre(torch.cat([classes, patches], dim=1) + visual.positional_embedding)


def check_tower(visual: nn.Module) -> None:
    """Refuse a vision tower whose windows have no embedding of their own."""
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

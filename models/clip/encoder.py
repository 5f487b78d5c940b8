"""CLIP's vision tower, applied to an image and all of its windows in one pass.

A window is embedded as the class token's output when the tower sees only that window's patches
(section 4.2). Dropping the other patches before the transformer is exact, because patches interact
only in its attention; positional embeddings and ln_pre are applied first, as in the full forward
pass.

All sequences lie side by side in one list of tokens, so that each layer runs once. For a grid of
15 x 15 and windows of 2 and 3 patches, an image has 2,896 tokens in 366 sequences:

    full image       1 sequence  of 1 class token + 225 patches =   226 tokens
    2 x 2 windows  196 sequences of 1 class token +   4 patches =   980 tokens (196 x 5)
    3 x 3 windows  169 sequences of 1 class token +   9 patches = 1,690 tokens (169 x 10)

With B images, the list is group-major: B x 226 tokens of full images, then B x 980, then B x 1,690.
Each group is contiguous, so splitting its heads is a view. Below, T is the number of tokens of an
image, and T_g of those in group g, which are S_g sequences of L_g tokens. On CUDA, attention takes
a whole row of windows as one sequence (14 x 5 = 70 tokens, or 13 x 10 = 130), with a mask between
its windows: the kernels work on blocks of 64 or more tokens, most of which a single window would
leave empty.

open_clip's modules and weights compute everything. What sequences share (patch embedding, ln_pre,
the first block's queries, keys and values) is computed once; the last block computes only the
tokens that are read: the class tokens, and the patch tokens of the full images.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip.blocks import (
    add_attention,
    add_mlp,
    attend,
    attend_from_class_token,
    project_qkv,
    run_block,
)
from models.clip.device import matmul_precision, without_cudnn_attention
from models.clip.features import AllFeatures, PatchTokens
from models.clip.towers import check_scales, check_tower
from models.winclip import Features
from models.windows import window_indices


class WindowedEncoder:
    """Embed images and their windows with a frozen vision tower (`model.visual` of open_clip).

    `scales` are the windows' sizes in patches. `patch_tokens` selects those to return; with None,
    features have none (N = 0) and the last block is computed for class tokens alone. `tf32` runs
    fp32 matrix products in TF32 on CUDA. `by_rows`: compute attention by rows of windows (None: on
    CUDA). Raises InputError for a tower that is not a plain transformer with a class token and two
    or more blocks, and for a scale that does not fit its grid.
    """

    def __init__(
        self,
        visual: nn.Module,
        scales: Sequence[int] = (2, 3),
        patch_tokens: PatchTokens | None = "post_ln",
        tf32: bool = False,
        by_rows: bool | None = None,
    ):
        check_tower(visual)
        self.visual = visual.eval()
        self.scales = tuple(scales)
        self.patch_tokens = patch_tokens
        self.tf32 = tf32
        self.grid = tuple(visual.grid_size)
        check_scales(self.scales, self.grid)
        self._lay_out_sequences(self.device.type == "cuda" if by_rows is None else by_rows)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.visual.class_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the weights, in which products are computed."""
        return self.visual.class_embedding.dtype

    def _lay_out_sequences(self, by_rows: bool) -> None:
        """Precompute the layout of the module docstring, for one image."""
        patches = self.grid[0] * self.grid[1]
        # Each sequence starts with the class token, index 0; patch p is token p + 1.
        groups = [torch.arange(patches + 1)[None]]
        for size in self.scales:
            groups.append(F.pad(window_indices(self.grid, size) + 1, (1, 0), value=0))
        self.group_shapes = [tuple(group.shape) for group in groups]  # (sequences, tokens in each)
        self.group_tokens = [count * length for count, length in self.group_shapes]
        self.token_index = torch.cat([group.flatten() for group in groups]).to(self.device)
        # For each group: the tokens that attention takes as one sequence, and the mask (or None).
        self.attention_layout = [(length, None) for _, length in self.group_shapes]
        if by_rows:
            for group, size in enumerate(self.scales, start=1):
                windows, length = self.grid[1] - size + 1, size * size + 1
                tokens = windows * length
                mask = row_mask(windows, length).to(self.device, self.dtype)
                # Attention copies a mask at every call unless its rows are aligned to 8 elements.
                mask = F.pad(mask, (0, -tokens % 8))[:, :tokens]
                self.attention_layout[group] = (tokens, mask)

    def encode_images(self, pixels: Tensor) -> Features:
        """Embed B images and all their windows.

        `pixels` (B, 3, H, W), normalised as open_clip's transform does; returns float32 features.
        """
        features = self.encode_all(pixels)
        return features.select(self.patch_tokens or "pre_ln")  # with None, `pre_ln` is empty

    @torch.inference_mode()
    def encode_all(self, pixels: Tensor) -> AllFeatures:
        """Embed B images and all their windows, as `encode_images` does.

        The result has all kinds of patch tokens, or none if no patch tokens are read.
        """
        with matmul_precision(self.tf32), without_cudnn_attention():
            tokens = embed_patches(self.visual, pixels.to(self.device, self.dtype))
            groups = self._run_blocks(tokens)
            # Each group is finished by itself, and class tokens apart from patch tokens, so that an
            # image embedding has the same bits whatever else is computed.
            image, *windows = (finish_class_tokens(self.visual, group) for group in groups)
            windows = tuple(scale.unflatten(0, (len(pixels), -1)) for scale in windows)
            full = groups[0]
            penultimate = pre_ln = full[:, :0]
            if self.patch_tokens is not None:
                penultimate = full[:, 1:]
                pre_ln = run_block(self.visual.transformer.resblocks[-1], full)[:, 1:]
        # Views would keep all tokens in memory.
        pre_ln, penultimate = (t.to(torch.float32, copy=True) for t in (pre_ln, penultimate))
        ln_post = self.visual.ln_post
        return AllFeatures(image, windows, pre_ln, penultimate, ln_post, self.grid, self.scales)

    @torch.inference_mode()
    def encode_crops(self, pixels: Tensor) -> Tensor:
        """Embed crops as open_clip embeds images, without windows: (B, 3, H, W) to (B, E) float32.

        `pixels` are normalised as open_clip's transform does.
        """
        with matmul_precision(self.tf32), without_cudnn_attention():
            tokens = embed_patches(self.visual, pixels.to(self.device, self.dtype))
            for block in self.visual.transformer.resblocks[:-1]:
                tokens = run_block(block, tokens)
            return finish_class_tokens(self.visual, tokens)

    def _run_blocks(self, tokens: Tensor) -> list[Tensor]:
        """Run all blocks but the last: tokens (B, 1 + N, D) to sequences (B * S_g, L_g, D).

        The full images come first, then the windows of each scale.
        """
        batch, full, _ = tokens.shape
        starts = torch.arange(batch, device=tokens.device)[:, None] * full
        groups = self.token_index.split(self.group_tokens)
        sources = torch.cat([(starts + group).flatten() for group in groups])
        tokens = tokens.flatten(0, 1)
        x = tokens[sources]
        for index, block in enumerate(self.visual.transformer.resblocks[:-1]):
            # The first block computes queries, keys and values once per patch, for all windows.
            qkv = project_qkv(block, x) if index else project_qkv(block, tokens)[sources]
            attended = self._attend(block, qkv)
            del qkv
            x = add_attention(block, x, attended)
            del attended  # before the MLP takes the most memory
            x = add_mlp(block, x)
        groups = zip(self._groups(x), self.group_shapes, strict=True)
        return [group.unflatten(0, (-1, length)) for group, (_, length) in groups]

    def _attend(self, block: nn.Module, qkv: Tensor) -> Tensor:
        """Compute attention within each sequence: (B * T, 3 * D) to (B * T, D)."""
        attended = []
        for group, (length, mask) in zip(self._groups(qkv), self.attention_layout, strict=True):
            queries, keys, values = group.unflatten(0, (-1, length)).chunk(3, dim=-1)
            attended.append(attend(queries, keys, values, block.attn.num_heads, mask).flatten(0, 1))
        return torch.cat(attended)

    def _groups(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Split the tokens of B images into their groups: (B * T, ...) to (B * T_g, ...)."""
        batch = len(tokens) // len(self.token_index)
        return tokens.split([batch * count for count in self.group_tokens])


def row_mask(windows: int, length: int) -> Tensor:
    """Return the mask of a row of `windows` windows of `length` tokens: (L, L), 0 or -infinity.

    Tokens see those of their own window only:

    >>> row_mask(2, 2).exp()
    tensor([[1., 1., 0., 0.],
            [1., 1., 0., 0.],
            [0., 0., 1., 1.],
            [0., 0., 1., 1.]])
    """
    return torch.block_diag(*torch.ones(windows, length, length)).log()


def embed_patches(visual: nn.Module, pixels: Tensor) -> Tensor:
    """Embed class token and patches, with positions and ln_pre: (B, 3, H, W) to (B, 1 + N, D)."""
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    classes = visual.class_embedding.expand(len(patches), 1, -1)
    return visual.ln_pre(torch.cat([classes, patches], dim=1) + visual.positional_embedding)


def finish_class_tokens(visual: nn.Module, tokens: Tensor) -> Tensor:
    """Run the last block for the class tokens alone: (B, 1 + N, D) to embeddings (B, E) float32."""
    last = visual.transformer.resblocks[-1]
    attended = attend_from_class_token(last, tokens)
    return project(visual, add_mlp(last, add_attention(last, tokens[:, 0], attended)))


def project(visual: nn.Module, tokens: Tensor) -> Tensor:
    """Normalise the last block's tokens (..., D) and project them: (..., E) float32."""
    return (visual.ln_post(tokens) @ visual.proj).float()

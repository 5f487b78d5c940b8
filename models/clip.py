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
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from models.protocols import PatchTokens
from models.winclip import Features
from models.windows import window_indices
from utils.errors import InputError

TEXT_BATCH = 256  # prompts encoded at once; bounds memory, changes no embedding


class WindowedEncoder:
    """A frozen CLIP that embeds text, images and their windows.

    `scales` are the windows' sizes in patches (2 and 3 in the paper); `patch_tokens` says which
    tokens WinCLIP+ gets (`Protocol.patch_tokens`). A vision tower that is not a transformer with
    a class token is an `InputError`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        scales: Sequence[int] = (2, 3),
        patch_tokens: PatchTokens = "post_ln",
    ):
        check_tower(model.visual)
        self.model = model.eval()
        self.visual = model.visual
        self.tokenizer = tokenizer
        self.scales = tuple(scales)
        self.patch_tokens = patch_tokens
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
        self.gather = torch.cat([group.flatten() for group in groups]).to(self.device)
        first = torch.tensor([length for count, length in self.shapes for _ in range(count)])
        heads = F.pad(first.cumsum(0)[:-1], (1, 0))  # where each sequence's class token stands
        # The last block reads class tokens, and the full image's patches where they are wanted.
        full = 1 if self.patch_tokens == "penultimate" else patches + 1
        self.lengths = [length for _, length in self.shapes]
        self.read_lengths = [full] + [1] * len(self.scales)
        self.read = torch.cat([torch.arange(full), heads[1:]]).to(self.device)

    @torch.inference_mode()
    def encode_images(self, pixels: Tensor) -> Features:
        """Embed images and all their windows.

        `pixels` (B, 3, H, W) float, normalised as open_clip's own transform does; returns float32
        features of B images.
        """
        tokens = self._embed_patches(pixels.to(self.device, self.dtype))
        classes, patches = self._transform(tokens)
        embeddings = (self.visual.ln_post(classes) @ self.visual.proj).float()
        counts = [count for count, _ in self.shapes]
        image, *windows = embeddings.split(counts, dim=1)
        return Features(image[:, 0], tuple(windows), patches.float(), self.grid, self.scales)

    def _embed_patches(self, pixels: Tensor) -> Tensor:
        """Patches, class token, positions and ln_pre: (B, 3, H, W) to (B, 1 + N, D)."""
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        classes = visual.class_embedding.expand(len(patches), 1, -1)
        return visual.ln_pre(torch.cat([classes, patches], dim=1) + visual.positional_embedding)

    def _transform(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """All blocks over all sequences: class tokens (B, S, D), patch tokens (B, N, D)."""
        first, *middle, last = self.visual.transformer.resblocks
        queries, keys, values = project(first, tokens)  # once per patch, shared by all windows
        x = tokens[:, self.gather]
        gathered = (shared[:, self.gather] for shared in (queries, keys, values))
        x = finish_block(first, x, self._attend(first, *gathered, self.lengths))
        for block in middle:
            x = finish_block(block, x, self._attend(block, *project(block, x), self.lengths))
        full = self.lengths[0]
        penultimate = x[:, 1:full]
        x = self._last_block(last, x)
        classes = torch.cat([x[:, :1], x[:, self.read_lengths[0] :]], dim=1)
        if self.patch_tokens == "penultimate":
            return classes, penultimate
        patches = x[:, 1:full]
        return classes, self.visual.ln_post(patches) if self.patch_tokens == "post_ln" else patches

    def _last_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """The last block, for the tokens that are read; every token still gives key and value."""
        normal = block.ln_1(x)
        width = x.shape[-1]
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        queries = F.linear(normal[:, self.read], weight[:width], bias[:width])
        keys, values = F.linear(normal, weight[width:], bias[width:]).chunk(2, dim=-1)
        attended = self._attend(block, queries, keys, values, self.read_lengths)
        return finish_block(block, x[:, self.read], attended)

    def _attend(
        self, block: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, wanted: list[int]
    ) -> Tensor:
        """Attention within each sequence: queries (B, T_q, D), keys and values (B, T, D).

        `wanted` is the number of queries of each sequence, one per group; returns (B, T_q, D).
        """
        heads = block.attn.num_heads
        counts = [count for count, _ in self.shapes]
        key_sizes = [count * length for count, length in self.shapes]
        query_sizes = [count * number for count, number in zip(counts, wanted, strict=True)]
        groups = zip(
            queries.split(query_sizes, dim=1),
            keys.split(key_sizes, dim=1),
            values.split(key_sizes, dim=1),
            counts,
            strict=True,
        )
        attended = []
        for *group, count in groups:
            q, k, v = (split_heads(tokens, count, heads) for tokens in group)
            heads_out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            attended.append(heads_out.reshape(group[0].shape))
        return torch.cat(attended, dim=1)

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts: (P, E) float32, at the lengths the text tower gives them."""
        tokens = self.tokenizer(list(prompts)).to(self.device)
        text = getattr(self.model, "text", self.model)  # newer model classes keep a text tower
        return torch.cat([self._embed_text(text, part) for part in tokens.split(TEXT_BATCH)])

    def _embed_text(self, text: nn.Module, tokens: Tensor) -> Tensor:
        """One batch of tokens (P, L) through the text tower, without its empty tail."""
        pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
        if pool != "argmax" or text.attn_mask is None or getattr(text, "cls_emb", None) is not None:
            return self.model.encode_text(tokens).float()
        # A causal tower reads nothing behind the end token, so the cut is exact. The end token
        # has the highest number of the vocabulary: its place is the argmax.
        ends = tokens.argmax(dim=-1)
        tokens = tokens[:, : int(ends.max()) + 1]
        length = tokens.shape[1]
        x = text.token_embedding(tokens) + text.positional_embedding[:length]
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        x = text.ln_final(x[torch.arange(len(x), device=x.device), ends])
        projection = text.text_projection
        return (projection(x) if isinstance(projection, nn.Linear) else x @ projection).float()


def split_heads(tokens: Tensor, sequences: int, heads: int) -> Tensor:
    """(B, sequences * L, D) to (B * sequences, heads, L, D / heads)."""
    batch, _, width = tokens.shape
    split = tokens.reshape(batch * sequences, -1, heads, width // heads)
    return split.transpose(1, 2)


def project(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's queries, keys and values of tokens (B, T, D), each (B, T, D)."""
    return F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(
        3, dim=-1
    )


def finish_block(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a block after attention: output projection, MLP and both residual sums."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def check_tower(visual: nn.Module) -> None:
    """Refuse a vision tower whose windows have no embedding of their own."""
    reason = None
    if not isinstance(visual, VisionTransformer):
        reason = f"its vision tower is a {type(visual).__name__}"
    elif len(visual.transformer.resblocks) < 2:
        reason = "its vision tower has a single block"
    elif visual.attn_pool is not None or visual.pool_type != "tok":
        reason = "its image embedding is not the class token's"
    elif not all(
        isinstance(block, ResidualAttentionBlock) and isinstance(block.attn, nn.MultiheadAttention)
        for block in visual.transformer.resblocks
    ):
        reason = "its blocks are not open_clip's plain residual attention blocks"
    if reason:
        raise InputError(
            f"MODEL: {reason}; windows need open_clip's VisionTransformer with a class token, "
            'such as "ViT-B-16-plus-240", "ViT-B-32" or "ViT-L-14"'
        )

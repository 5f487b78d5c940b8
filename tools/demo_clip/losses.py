"""Embeddings with gradients, and the losses that the demo CLIP's training minimises."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip.blocks import add_attention, add_mlp, project_qkv, split_heads
from tools.demo_clip.views import IGNORE

# For the contrast of states: CLIP's own final value. Scores use 0.07, so that they do not saturate
# and embeddings keep room for differences between categories and between patches.
TEMPERATURE = 0.01
CAPTION_TEMPERATURE = 0.07  # for the contrast of categories, which matters less here


def embed_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Embed prompts: tokens (P, L) to embeddings (P, E) of length 1."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x[torch.arange(len(x)), tokens.argmax(dim=-1)])
    return F.normalize(x @ model.text_projection, dim=-1)


def embed_tokens(visual: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run all blocks: tokens (S, T, D) to embeddings (S, T, E) of length 1 of every token.

    Also returns the log of the class token's attention in the last block, (S, heads, T).
    """
    for block in visual.transformer.resblocks:
        heads = block.attn.num_heads
        q, k, v = (split_heads(part, heads) for part in project_qkv(block, x).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = add_mlp(block, add_attention(block, x, attended))
    logits = (q[:, :, :1] @ k.transpose(-2, -1))[:, :, 0] / q.shape[-1] ** 0.5
    return F.normalize(visual.ln_post(x) @ visual.proj, dim=-1), logits.log_softmax(dim=-1)


def gather_patches(tokens: Tensor, patches: Tensor) -> Tensor:
    """Take the class token and some patches: (B, 1 + N, D) and (B, T) to (B, 1 + T, D)."""
    rows = torch.cat([torch.zeros_like(patches[:, :1]), patches + 1], dim=1)
    return tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))


def state_loss(
    views: Tensor, texts: Tensor, category: Tensor, labels: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Contrast the normal and the anomalous caption of each view's category by cross-entropy.

    `views` (V, E), `texts` (2 K, E), `category` (V,) in 0..K-1, `labels` (V,) 0, 1 or IGNORE.
    """
    pairs = texts.unflatten(0, (2, -1)).transpose(0, 1)[category]  # (V, 2, E)
    logits = (pairs @ views[..., None])[..., 0] / TEMPERATURE
    return F.cross_entropy(logits, labels, weight, ignore_index=IGNORE)


def attention_loss(attention: Tensor, coverage: Tensor, labels: Tensor) -> Tensor:
    """Penalise a class token that attends elsewhere than to the defect, or, in good views, itself.

    `attention` (S, heads, 1 + N), in logarithms, from `embed_tokens`, `coverage` (S, N) of each
    patch by a defect, in [0, 1], `labels` (S,) 0, 1 or IGNORE. A defect covers a few of 225
    patches: without this loss, the class token does not find it in thousands of steps.
    """
    target = torch.cat([(labels == 0)[:, None], coverage > 0], dim=1)[:, None]
    penalty = -attention.masked_fill(~target, -torch.inf).logsumexp(dim=-1)  # (S, heads)
    return penalty[labels != IGNORE].mean()


def caption_loss(views: Tensor, texts: Tensor, category: Tensor, labels: Tensor) -> Tensor:
    """Contrast all captions of a step by cross-entropy; the target is category and state."""
    target = torch.where(labels == IGNORE, IGNORE, labels * (len(texts) // 2) + category)
    return F.cross_entropy(views @ texts.T / CAPTION_TEMPERATURE, target, ignore_index=IGNORE)


def spread_loss(views: Tensor) -> Tensor:
    """Penalise embeddings (V, E) of length 1 that lie close together.

    This is the uniformity loss of Wang and Isola (2020) with t = 2. Without it, all good patches of
    all categories get one embedding, and references carry no information.
    """
    others = ~torch.eye(len(views), dtype=torch.bool, device=views.device)
    squared = 2 - 2 * (views @ views.T)[others]
    return ((-2 * squared).logsumexp(0) - np.log(len(squared))) / 2

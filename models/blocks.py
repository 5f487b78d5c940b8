"""The parts of open_clip's transformer blocks, so that a tower can be run in an order of our own.

A block is normalisation, attention, output projection, then normalisation and MLP, with a sum
behind each half. The modules and weights are open_clip's.
"""

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


def has_plain_blocks(tower: nn.Module) -> bool:
    """Whether a tower is made of open_clip's plain residual attention blocks alone."""
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", ())
    return len(blocks) > 0 and all(
        isinstance(block, ResidualAttentionBlock) and isinstance(block.attn, nn.MultiheadAttention)
        for block in blocks
    )


def project(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's queries, keys and values of tokens (B, T, D), each (B, T, D)."""
    return in_projection(block.attn, block.ln_1(x)).chunk(3, dim=-1)


def in_projection(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Queries, keys and values of normalised tokens, side by side: (..., D) to (..., 3 D)."""
    return F.linear(x, attn.in_proj_weight, attn.in_proj_bias)


def split_heads(tokens: Tensor, sequences: int, heads: int) -> Tensor:
    """(B, sequences * L, D) to (B * sequences, heads, L, D / heads)."""
    batch, _, width = tokens.shape
    split = tokens.reshape(batch * sequences, -1, heads, width // heads)
    return split.transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, sequences: int, heads: int) -> Tensor:
    """Attention within each of some sequences of equal length, (B, sequences * L, D) each.

    There may be fewer queries in each than keys; returns the shape of the queries.
    """
    q, k, v = (split_heads(part, sequences, heads) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(queries.shape)


def attend_from_first(attn: nn.MultiheadAttention, x: Tensor, sequences: int) -> Tensor:
    """Attention of each sequence's first token: (B, sequences * L, D) to (B, sequences, D).

    For one query a sequence it takes fewer products to fold W_k into the query, (q W_k) x, than to
    compute keys, q (W_k x), and to mix tokens before their values are taken, W_v (a x): the same
    but for rounding. What the keys' bias adds is the same for all tokens, so softmax drops it.
    """
    batch, _, width = x.shape
    heads = attn.num_heads
    tokens = x.reshape(batch * sequences, -1, width)  # (S, L, D)
    to_q, to_k, to_v = attn.in_proj_weight.unflatten(0, (3, heads, -1))  # each (H, D / H, D)
    bias_q, _, bias_v = attn.in_proj_bias.chunk(3)
    queries = F.linear(tokens[:, 0], to_q.flatten(0, 1), bias_q).unflatten(1, (heads, -1))
    folded = (queries.transpose(0, 1) @ to_k).transpose(0, 1)  # (S, H, D)
    scores = folded @ tokens.transpose(1, 2) / attn.head_dim**0.5  # (S, H, L)
    mixed = scores.softmax(dim=-1) @ tokens  # (S, H, D)
    values = mixed.transpose(0, 1) @ to_v.transpose(1, 2)  # (H, S, D / H)
    return (values.transpose(0, 1).flatten(1) + bias_v).unflatten(0, (batch, sequences))


def finish_block(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a block after attention: output projection, MLP and both residual sums."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))

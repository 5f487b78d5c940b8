"""The steps of open_clip's residual attention block, as functions of the block's own modules.

A block is x + Attention(LN(x)), then x + MLP(LN(x)). Here its steps are separate, so that a tower
can share projections between sequences, skip tokens that are never read, and free each tensor as
soon as it has been used.

Shapes: S sequences of L tokens each, D the width, H heads.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class LinearLayers(NamedTuple):
    """The parts of a block that can be quantised. Those in int8 may overwrite their input."""

    qkv: Callable[[Tensor], Tensor]  # (..., D) to (..., 3 * D)
    out: Callable[[Tensor], Tensor]  # (..., D) to (..., D)
    mlp: Iterable[Callable[[Tensor], Tensor]]  # its linear layers and its activation


def linear_layers(block: nn.Module) -> LinearLayers:
    """Return a block's own layers, or those that `models.clip.int8` has made of them."""
    if hasattr(block, "int8"):
        return block.int8
    attn = block.attn
    qkv = partial(F.linear, weight=attn.in_proj_weight, bias=attn.in_proj_bias)
    return LinearLayers(qkv, attn.out_proj, block.mlp)


def project_qkv(block: nn.Module, x: Tensor) -> Tensor:
    """Normalise tokens (..., D) and return their queries, keys and values: (..., 3 * D)."""
    return linear_layers(block).qkv(block.ln_1(x))


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """View (S, L, D) as (S, H, L, D / H)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Compute attention within each sequence: (S, L, D) each to the shape of `queries`.

    A sequence may have fewer queries than keys. `mask` (L, L) is added to the logits.
    """
    q, k, v = (split_heads(tokens, heads) for tokens in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def attend_from_class_token(block: nn.Module, x: Tensor) -> Tensor:
    """Compute attention of each sequence's first token only: (S, L, D) to (S, D).

    With one query q per sequence and tokens x, two identities (exact up to rounding)
    avoid computing keys and values for all tokens:

    - q^T (W_k x + b_k) = (W_k^T q)^T x + q^T b_k: fold W_k into the query. The last term is the
      same for every token, and softmax is invariant to such a shift, so b_k drops out.
    - sum_i a_i (W_v x_i + b_v) = W_v (sum_i a_i x_i) + b_v, because the weights a_i sum to 1: mix
      tokens first, project once.
    """
    attn = block.attn
    heads = attn.num_heads
    tokens = block.ln_1(x)
    w_q, w_k, w_v = attn.in_proj_weight.unflatten(0, (3, heads, -1))  # each (H, D / H, D)
    b_q, _, b_v = attn.in_proj_bias.chunk(3)
    queries = F.linear(tokens[:, 0], w_q.flatten(0, 1), b_q).unflatten(1, (heads, -1))
    folded = (queries.transpose(0, 1) @ w_k).transpose(0, 1)  # W_k^T q: (S, H, D)
    logits = folded @ tokens.transpose(1, 2) / attn.head_dim**0.5  # (S, H, L)
    mixed = logits.softmax(dim=-1) @ tokens  # sum_i a_i x_i: (S, H, D)
    values = mixed.transpose(0, 1) @ w_v.transpose(1, 2)  # (H, S, D / H)
    return values.transpose(0, 1).flatten(1) + b_v


def run_block(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run a whole block: (S, L, D) to (S, L, D). `mask` (L, L) is added to the logits."""
    queries, keys, values = project_qkv(block, x).chunk(3, dim=-1)
    attended = attend(queries, keys, values, block.attn.num_heads, mask)
    return add_mlp(block, add_attention(block, x, attended))


def add_attention(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """Project what the heads of a block attended to, and add it: (..., D) each to (..., D).

    May overwrite `attended`.
    """
    return x + block.ls_1(linear_layers(block).out(attended))


def add_mlp(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block's second half: (..., D) to (..., D)."""
    hidden = block.ln_2(x)
    for layer in linear_layers(block).mlp:  # block.mlp(hidden) would keep its input to the end
        hidden = layer(hidden)
    return x + block.ls_2(hidden)

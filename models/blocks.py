"""The steps of open_clip's residual attention block, as functions of the block's own modules.

A block is x + Attention(LN(x)), then x + MLP(LN(x)). Here its steps are separate, so that a tower
can share projections between sequences and skip tokens that are never read.

Shapes: B images, S sequences of L tokens for each image, D the width, H heads.
"""

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


def has_plain_blocks(tower: nn.Module) -> bool:
    """Return True if a tower consists of open_clip's plain residual attention blocks only."""
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", ())
    return len(blocks) > 0 and all(
        isinstance(block, ResidualAttentionBlock) and isinstance(block.attn, nn.MultiheadAttention)
        for block in blocks
    )


def project_qkv(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise tokens (..., D) and return their queries, keys and values, (..., D) each."""
    attn = block.attn
    return F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)


def split_heads(tokens: Tensor, sequences: int, heads: int) -> Tensor:
    """Reshape (B, S * L, D) to (B * S, H, L, D / H), where S is `sequences` and H is `heads`."""
    batch, _, width = tokens.shape
    split = tokens.reshape(batch * sequences, -1, heads, width // heads)
    return split.transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, sequences: int, heads: int) -> Tensor:
    """Compute attention within each of S sequences of equal length.

    `queries`, `keys` and `values` are (B, S * L, D); a sequence may have fewer queries than keys.
    The result has the shape of `queries`.
    """
    q, k, v = (split_heads(tokens, sequences, heads) for tokens in (queries, keys, values))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(queries.shape)


def attend_from_class_token(block: nn.Module, x: Tensor, sequences: int) -> Tensor:
    """Compute attention of each sequence's first token only: (B, S * L, D) to (B, S, D).

    With one query q per sequence and tokens x, two identities (exact up to rounding)
    avoid computing keys and values for all tokens:

    - q^T (W_k x + b_k) = (W_k^T q)^T x + q^T b_k: fold W_k into the query. The last term is the
      same for every token, and softmax is invariant to such a shift, so b_k drops out.
    - sum_i a_i (W_v x_i + b_v) = W_v (sum_i a_i x_i) + b_v, because the weights a_i sum to 1: mix
      tokens first, project once.
    """
    attn, (batch, _, width) = block.attn, x.shape
    heads = attn.num_heads
    tokens = block.ln_1(x).reshape(batch * sequences, -1, width)  # (B * S, L, D)
    w_q, w_k, w_v = attn.in_proj_weight.unflatten(0, (3, heads, -1))  # each (H, D / H, D)
    b_q, _, b_v = attn.in_proj_bias.chunk(3)
    queries = F.linear(tokens[:, 0], w_q.flatten(0, 1), b_q).unflatten(1, (heads, -1))
    folded = (queries.transpose(0, 1) @ w_k).transpose(0, 1)  # W_k^T q: (B * S, H, D)
    logits = folded @ tokens.transpose(1, 2) / attn.head_dim**0.5  # (B * S, H, L)
    mixed = logits.softmax(dim=-1) @ tokens  # sum_i a_i x_i: (B * S, H, D)
    values = mixed.transpose(0, 1) @ w_v.transpose(1, 2)  # (H, B * S, D / H)
    return (values.transpose(0, 1).flatten(1) + b_v).unflatten(0, (batch, sequences))


def finish_block(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """Run the rest of a block after attention: output projection, MLP and both residual sums."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(block.mlp(block.ln_2(x)))

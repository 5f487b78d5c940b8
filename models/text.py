"""CLIP's text tower over many prompts at once, without computing what they share twice."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import finish_block, has_plain_blocks, project, split_heads


def is_causal(text: nn.Module) -> bool:
    """Whether a text tower reads each prompt from left to right, up to its end token."""
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    causal = pool == "argmax" and getattr(text, "attn_mask", None) is not None
    return causal and getattr(text, "cls_emb", None) is None and has_plain_blocks(text)


def embed_prompts(text: nn.Module, tokens: Tensor) -> Tensor:
    """Prompts (P, L) through a causal text tower: (P, E), each distinct beginning only once.

    A token's place in the tower depends on itself and on those before it, so that prompts share
    all that they begin with; nothing behind the end token is computed.
    """
    # The end token has the highest number of the vocabulary: its place is the argmax.
    ends = tokens.argmax(dim=-1)
    prompts, heads = len(tokens), text.transformer.resblocks[0].attn.num_heads
    tokens = tokens[:, : int(ends.max()) + 1]
    nodes, first = (part.to(tokens.device) for part in shared_beginnings(tokens, ends))
    x = text.token_embedding(tokens) + text.positional_embedding[: tokens.shape[1]]
    x = x.flatten(0, 1)[first]
    for block in text.transformer.resblocks:
        q, k, v = (split_heads(part[nodes], 1, heads) for part in project(block, x))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = finish_block(block, x, attended.reshape(prompts * nodes.shape[1], -1)[first])
    x = text.ln_final(x[nodes[torch.arange(prompts), ends]])
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return x.float()


def shared_beginnings(tokens: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Number the distinct beginnings of prompts `tokens` (P, L), each up to its place in `ends`.

    Returns the beginning that ends at each token, (P, L) and 0 behind the end, and where each of
    them first stands in the flat list of tokens, (K,).

    >>> shared_beginnings(torch.tensor([[7, 1, 9], [7, 2, 9], [7, 9, 0]]), torch.tensor([2, 2, 1]))
    (tensor([[0, 1, 2],
            [0, 3, 4],
            [0, 5, 0]]), tensor([0, 1, 2, 4, 5, 7]))
    """
    numbers: dict[tuple, int] = {}
    nodes, first = torch.zeros_like(tokens, device="cpu"), []
    for row, (prompt, end) in enumerate(zip(tokens.tolist(), ends.tolist(), strict=True)):
        before = -1
        for column, token in enumerate(prompt[: end + 1]):
            key = (before, token)
            if key not in numbers:
                numbers[key] = len(first)
                first.append(row * tokens.shape[1] + column)
            before = numbers[key]
            nodes[row, column] = before
    return nodes, torch.tensor(first)

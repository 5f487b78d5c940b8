"""CLIP's text tower over many prompts at once, without computing what they share twice."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import finish_block, has_plain_blocks, project, split_heads


def can_share_beginnings(text: nn.Module) -> bool:
    """Whether a text tower is causal, plain, and reads a prompt at its end token, as CLIP's."""
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    causal = pool == "argmax" and getattr(text, "attn_mask", None) is not None
    return causal and getattr(text, "cls_emb", None) is None and has_plain_blocks(text)


def embed_prompts(text: nn.Module, tokens: Tensor) -> Tensor:
    """Prompts (P, L) through a causal text tower: (P, E), each distinct beginning only once.

    A token's activations depend on itself and on the tokens before it, so that prompts share all
    that they begin with; nothing behind the end token is computed.
    """
    # The end token has the highest number of the vocabulary, so it stands at the argmax.
    ends = tokens.argmax(dim=-1)
    tokens = tokens[:, : int(ends.max()) + 1]
    count, length = tokens.shape
    *blocks, last = text.transformer.resblocks
    numbers, first = (part.to(tokens.device) for part in shared_beginnings(tokens, ends))
    x = (text.token_embedding(tokens) + text.positional_embedding[:length]).flatten(0, 1)[first]
    heads = last.attn.num_heads
    for block in blocks:
        q, k, v = (split_heads(part[numbers], 1, heads) for part in project(block, x))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = finish_block(block, x, attended.reshape(count * length, -1)[first])
    # Of the last block only the end tokens are read.
    read = numbers[torch.arange(count), ends]
    q, k, v = project(last, x)
    q, k, v = (split_heads(part, 1, heads) for part in (q[read][:, None], k[numbers], v[numbers]))
    seen = torch.arange(length, device=tokens.device) <= ends[:, None]  # (P, L)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
    x = text.ln_final(finish_block(last, x[read], attended.flatten(1)))
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
    rows, first = [[0] * tokens.shape[1] for _ in tokens], []
    for row, (prompt, end) in enumerate(zip(tokens.tolist(), ends.tolist(), strict=True)):
        before = -1
        for column, token in enumerate(prompt[: end + 1]):
            key = (before, token)
            if key not in numbers:
                numbers[key] = len(first)
                first.append(row * tokens.shape[1] + column)
            before = numbers[key]
            rows[row][column] = before
    return torch.tensor(rows), torch.tensor(first)

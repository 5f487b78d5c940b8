"""CLIP's text tower over many prompts, computing each shared prefix only once.

The prompts of an ensemble begin alike, so their tokens are put into a trie (prefix sharing): under
causal attention a token's activations depend only on itself and the tokens before it, that is, on
its node.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip.blocks import add_attention, add_mlp, attend, project_qkv, split_heads
from models.clip.towers import unsupported_part

TEXT_BATCH = 1024  # prompts encoded together; bounds memory


@torch.inference_mode()
def encode_text(model: nn.Module, tokenizer, prompts: Sequence[str]) -> Tensor:
    """Embed P prompts with an open_clip model: (P, E) float32, in their order, not normalised.

    A text tower that is not built like CLIP's goes through the model's own `encode_text`.
    """
    text = text_tower(model)
    groups = (prompts[i : i + TEXT_BATCH] for i in range(0, len(prompts), TEXT_BATCH))
    batches = (tokenizer(list(group)) for group in groups)
    if can_share_prefixes(text):
        return torch.cat([embed_prompts(text, batch) for batch in batches])
    device = next(text.parameters()).device
    return torch.cat([model.encode_text(batch.to(device)).float() for batch in batches])


def text_tower(model: nn.Module) -> nn.Module:
    """Return the text tower, which is the model itself in older classes of open_clip."""
    return getattr(model, "text", model)


def encode_states(model: nn.Module, tokenizer, *states: Sequence[str]) -> tuple[Tensor, ...]:
    """Embed the prompts of all states in one pass, to share prefixes: (P, E) for each state."""
    embeddings = encode_text(model, tokenizer, [prompt for prompts in states for prompt in prompts])
    return embeddings.split([len(prompts) for prompts in states])


def find_truncated(tokenizer, prompts: Sequence[str]) -> str:
    """Return the first prompt with more tokens than the text tower reads, or ""."""
    tokens = tokenizer(["", *prompts], context_length=tokenizer.context_length + 1)
    padding = tokens[0, -1]  # after the end token of the empty prompt
    truncated = (tokens[1:, -1] != padding).tolist()
    return next((prompt for prompt, cut in zip(prompts, truncated, strict=True) if cut), "")


def can_share_prefixes(text: nn.Module) -> bool:
    """Return True for a tower like CLIP's: causal, of plain blocks, read at the end token."""
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    causal = pool == "argmax" and getattr(text, "attn_mask", None) is not None
    return causal and getattr(text, "cls_emb", None) is None and not unsupported_part(text)


def embed_prompts(text: nn.Module, tokens: Tensor) -> Tensor:
    """Embed prompts (P, L) with a causal text tower: (P, E), computing each trie node once.

    Tokens after the end token are not computed.
    """
    device = text.positional_embedding.device
    tokens, ends, nodes, first = (tensor.to(device) for tensor in share_prefixes(tokens))
    count, length = tokens.shape
    *blocks, last = text.transformer.resblocks
    x = (text.token_embedding(tokens) + text.positional_embedding[:length]).flatten(0, 1)[first]
    heads = last.attn.num_heads
    for block in blocks:
        q, k, v = (split_heads(t[nodes], heads) for t in project_qkv(block, x).chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        x = add_mlp(block, add_attention(block, x, attended.reshape(count * length, -1)[first]))
    # The last block computes only the end tokens.
    end_nodes = nodes.gather(1, ends[:, None])[:, 0]
    q, k, v = project_qkv(last, x).chunk(3, dim=-1)
    visible = torch.arange(length, device=device) <= ends[:, None]  # (P, L)
    attended = attend(q[end_nodes][:, None], k[nodes], v[nodes], heads, mask=visible[:, None, None])
    return project_ends(text, add_mlp(last, add_attention(last, x[end_nodes], attended[:, 0])))


def project_ends(text: nn.Module, x: Tensor) -> Tensor:
    """Turn the end tokens after the last block, (P, D), into embeddings (P, E) float32."""
    x = text.ln_final(x)
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return x.float()


def share_prefixes(tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Drop the padding of prompts (P, 77) and build their trie.

    Returns tokens (P, L), the index of each prompt's end (P,), and what `prefix_trie` returns.
    """
    ends = tokens.argmax(dim=-1)  # the end token has the highest id of the vocabulary
    tokens = tokens[:, : int(ends.max()) + 1]
    return tokens, ends, *prefix_trie(tokens, ends)


def prefix_trie(tokens: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Build the trie of prompts `tokens` (P, L), numbering its nodes; prompt i ends at `ends[i]`.

    Returns the node of each token, (P, L) and 0 after the end, and the first index of each node in
    the flattened tokens, (K,). In the example, all prompts share the node of token 7:

    >>> prefix_trie(torch.tensor([[7, 1, 9], [7, 2, 9], [7, 9, 0]]), torch.tensor([2, 2, 1]))
    (tensor([[0, 1, 2],
            [0, 3, 4],
            [0, 5, 0]]), tensor([0, 1, 2, 4, 5, 7]))
    """
    children: dict[tuple[int, int], int] = {}  # (parent node, token) to node
    nodes, first = [[0] * tokens.shape[1] for _ in tokens], []
    for row, (prompt, end) in enumerate(zip(tokens.tolist(), ends.tolist(), strict=True)):
        node = -1  # the root
        for column, token in enumerate(prompt[: end + 1]):
            edge = (node, token)
            if edge not in children:
                children[edge] = len(first)
                first.append(row * tokens.shape[1] + column)
            node = nodes[row][column] = children[edge]
    return torch.tensor(nodes), torch.tensor(first)

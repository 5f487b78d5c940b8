"""What the demo CLIP's training minimises: embeddings with gradients, and the losses on them."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import finish_block, project, split_heads
from tools.demo_views import IGNORE

# Of the contrast of states, as CLIP's own training ends; scores are taken at 0.07, so that they do
# not saturate and embeddings keep room for what tells products and places apart.
TEMPERATURE = 0.01
CAPTION_TEMPERATURE = 0.07  # of the contrast of products, which matters less here


def embed_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Prompts (P, L) to embeddings (P, E) of length 1."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x[torch.arange(len(x)), tokens.argmax(dim=-1)])
    return F.normalize(x @ model.text_projection, dim=-1)


def embed_tokens(visual: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """All blocks: (S, T, D) to embeddings (S, T, E) of length 1 of every token.

    The second is the log of the class token's attention in the last block, (S, heads, T).
    """
    for block in visual.transformer.resblocks:
        heads = block.attn.num_heads
        q, k, v = (split_heads(part, 1, heads) for part in project(block, x))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = finish_block(block, x, attended)
    looks = (q[:, :, :1] @ k.transpose(-2, -1))[:, :, 0] / q.shape[-1] ** 0.5
    return F.normalize(visual.ln_post(x) @ visual.proj, dim=-1), looks.log_softmax(dim=-1)


def pick(tokens: Tensor, chosen: Tensor) -> Tensor:
    """The class token and chosen patches: (B, 1 + N, D) and (B, T) to (B, 1 + T, D)."""
    rows = torch.cat([torch.zeros_like(chosen[:, :1]), chosen + 1], dim=1)
    return tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))


def state_loss(
    views: Tensor, texts: Tensor, product: Tensor, labels: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy between the normal and the anomalous caption of each view's own product.

    `views` (V, E), `texts` (2 K, E), `product` (V,) in 0..K-1, `labels` (V,) 0, 1 or IGNORE.
    """
    pairs = texts.unflatten(0, (2, -1)).transpose(0, 1)[product]  # (V, 2, E)
    logits = (pairs @ views[..., None])[..., 0] / TEMPERATURE
    return F.cross_entropy(logits, labels, weight, ignore_index=IGNORE)


def attention_loss(looks: Tensor, share: Tensor, labels: Tensor) -> Tensor:
    """How little the class token looks at what makes the label: damage, or in good views itself.

    `looks` (S, heads, 1 + N) from `embed_tokens`, `share` (S, N) of each patch that a defect
    covers, `labels` (S,) 0, 1 or IGNORE. A defect is a few of 225 patches: left alone, the class
    token of an object does not find it in thousands of steps.
    """
    right = torch.cat([(labels == 0)[:, None], share > 0], dim=1)[:, None]
    missed = -looks.masked_fill(~right, -torch.inf).logsumexp(dim=-1)  # (S, heads)
    return missed[labels != IGNORE].mean()


def caption_loss(views: Tensor, texts: Tensor, product: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over all captions of the step: the view's product in its state is right."""
    right = torch.where(labels == IGNORE, IGNORE, labels * (len(texts) // 2) + product)
    return F.cross_entropy(views @ texts.T / CAPTION_TEMPERATURE, right, ignore_index=IGNORE)


def spread_loss(views: Tensor) -> Tensor:
    """How close embeddings (V, E) of length 1 lie together: uniformity, Wang and Isola 2020, t = 2.

    Without it all good places of all products fall on one point, and references tell nothing.
    """
    others = ~torch.eye(len(views), dtype=torch.bool, device=views.device)
    squared = 2 - 2 * (views @ views.T)[others]
    return ((-2 * squared).logsumexp(0) - np.log(len(squared))) / 2

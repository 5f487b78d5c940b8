"""Initialise the demo CLIP's vision tower so that patches attend to their neighbours.

A vision transformer needs long training to learn which patches are neighbours. Here it starts with
this knowledge, as in "Mimetic Initialization of Self-Attention Layers" (Trockman and Kolter 2023):
positions are sines and cosines, so that near ones are similar; queries and keys compare tokens
directly, so that every patch attends to its neighbours; the result is subtracted. All of these
weights are then trained like any other.
"""

import numpy as np
import torch
from torch import Tensor, nn

# Lowest and highest, in radians per patch: similarity ends after two patches.
FREQUENCIES = (0.1, 1.6)
SUBTRACTED = 0.4  # factor of the attention output
NOISE = 0.02  # standard deviation, added to the projections to queries, keys and values


@torch.no_grad()
def start_local(visual: nn.Module, generator: torch.Generator) -> None:
    """Initialise positions and attention as in the module docstring, in place."""
    width, heads = visual.conv1.out_channels, visual.transformer.resblocks[0].attn.num_heads
    # As long as patch embeddings: inputs have a standard deviation of about 1.
    length = visual.conv1.weight.std() * np.sqrt(visual.conv1.weight[0].numel())
    codes = position_codes(visual.grid_size, width, heads)
    visual.positional_embedding[0] = 0
    visual.positional_embedding[1:] = length * codes
    for block in visual.transformer.resblocks:
        identity, attn = torch.eye(width), block.attn
        rotation = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        noise = NOISE * torch.randn(3 * width, width, generator=generator)
        attn.in_proj_weight.copy_(torch.cat([identity, identity, rotation]) + noise)
        attn.in_proj_bias.zero_()
        attn.out_proj.weight.copy_(-SUBTRACTED * rotation.T)
        attn.out_proj.bias.zero_()


def position_codes(grid: tuple[int, int], width: int, heads: int) -> Tensor:
    """Return sines and cosines of the rows and columns of a grid: (N, width), mean square 1.

    Frequencies alternate between the heads, so that each can tell near from far; the width of a
    head must be a multiple of 4.
    """
    each = width // heads // 4
    frequencies = torch.linspace(*FREQUENCIES, each * heads).reshape(each, heads).T
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij")
    positions = torch.stack([rows.flatten(), columns.flatten()], dim=1)  # (N, 2)
    angles = positions[:, None, :, None] * frequencies[:, None]  # (N, heads, 2, each)
    return np.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)

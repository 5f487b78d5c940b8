"""The weights that the demo CLIP's training starts from.

A vision transformer must first learn which patches are neighbours, which takes a long training.
Here it knows at the start, as in "Mimetic Initialization of Self-Attention Layers" (Trockman and
Kolter 2023): positions are sines and cosines, so that near ones are alike; queries and keys compare
tokens as they are, so that every patch looks at its neighbours; what it sees there is subtracted.
All of it is trained on like any other weight.
"""

import numpy as np
import torch
from torch import Tensor, nn

FREQUENCIES = (0.1, 1.6)  # lowest and highest, in radians a patch: likeness ends after two patches
SUBTRACTED = 0.4  # share of what a patch sees around it
NOISE = 0.02  # deviation of what is added to queries, keys and values


@torch.no_grad()
def start_local(visual: nn.Module, generator: torch.Generator) -> None:
    """Set the positions and the attention of a vision transformer as above."""
    width, heads = visual.conv1.out_channels, visual.transformer.resblocks[0].attn.num_heads
    # As long as the patches beside them: inputs have a deviation of about 1.
    length = visual.conv1.weight.std() * np.sqrt(visual.conv1.weight[0].numel())
    codes = position_codes(visual.grid_size, width, heads)
    visual.positional_embedding[0] = 0
    visual.positional_embedding[1:] = length * codes
    for block in visual.transformer.resblocks:
        same, attn = torch.eye(width), block.attn
        turned = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        noise = NOISE * torch.randn(3 * width, width, generator=generator)
        attn.in_proj_weight.copy_(torch.cat([same, same, turned]) + noise)
        attn.in_proj_bias.zero_()
        attn.out_proj.weight.copy_(-SUBTRACTED * turned.T)
        attn.out_proj.bias.zero_()


def position_codes(grid: tuple[int, int], width: int, heads: int) -> Tensor:
    """Sines and cosines of the rows and columns of a grid: (N, width), of mean square 1.

    Frequencies take turns among the heads, so that each of them can tell near from far; the width
    of a head is a multiple of 4.
    """
    each = width // heads // 4
    frequencies = torch.linspace(*FREQUENCIES, each * heads).reshape(each, heads).T
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1)  # (N, 2)
    angles = places[:, None, :, None] * frequencies[:, None]  # (N, heads, 2, each)
    return np.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)

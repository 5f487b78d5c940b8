"""The vision tower's linear layers in 8-bit integers, for CPUs with VNNI instructions.

Weights are quantised by output channel and activations by token, each symmetrically by the largest
magnitude of its row, without calibration (vector-wise quantisation, as in LLM.int8(), arXiv
2208.07339):

    w_o = s_o q_o,  x = t p,  q and p in [-127, 127]  =>  y_o = t s_o (q_o . p) + b_o

The products q_o . p are exact in int32. Attention, normalisation, activations of the MLP and
residuals stay in fp32, and so do the patch embedding, the projection and the last block's attention
of windows, which take little time.

The instructions multiply unsigned by signed bytes, so tokens are stored as p + 128, which oneDNN
subtracts (its zero point). CPUs without VNNI add pairs of such products in 16 bits, which saturates
(255 * 127 * 2 > 32767): the results would be wrong.
"""

import torch
from torch import Tensor, nn

from models.clip.blocks import LinearLayers
from models.clip.towers import unsupported_part
from utils.cli import label
from utils.errors import InputError

ZERO_POINT = 128  # of the tokens, stored as unsigned bytes


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise each row by its largest magnitude: (R, K) float32 to int8 and scales (R, 1).

    Overwrites `rows`, which saves memory and time. A NaN or infinity in a row is also in its scale.

    >>> quantised, scales = quantise_rows(torch.tensor([[254.0, -127.0, 3.0], [0.0, 0.0, 0.0]]))
    >>> quantised.tolist(), scales[0].item()
    ([[127, -64, 2], [0, 0, 0]], 2.0)
    """
    largest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True))
    scales = largest.div_(127).clamp_min_(torch.finfo(torch.float32).tiny)  # for rows of zeros
    # torch's conversion to int8 is vectorised; that to uint8 takes 6 times as long.
    return rows.mul_(scales.reciprocal()).round_().to(torch.int8), scales


def pack(weight: Tensor) -> Tensor:
    """Reorder an int8 weight (N, K) for `multiply`."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def multiply(tokens: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """Return the products of int8 tokens (T, K) with a packed weight times its scales (N): (T, N).

    Overwrites `tokens`.
    """
    stored = tokens.view(torch.uint8).bitwise_xor_(ZERO_POINT)  # p + 128 in two's complement
    zero_points = torch.zeros(len(scales), dtype=torch.int64)  # of the weights
    inputs = (stored, 1.0, ZERO_POINT, packed, scales, zero_points, None)
    return torch.ops.onednn.qlinear_pointwise(*inputs, 1.0, 0, torch.float32, "none", [], "")


class Int8Linear:
    """A linear layer y = W x + b with an int8 weight; made from the float32 W (N, K) and b (N)."""

    def __init__(self, weight: Tensor, bias: Tensor):
        quantised, scales = quantise_rows(weight.detach().clone())
        self.packed, self.scales, self.bias = pack(quantised), scales.flatten(), bias.detach()

    def __call__(self, tokens: Tensor) -> Tensor:
        """Apply the layer: (..., K) to (..., N), both float32. May overwrite `tokens`."""
        quantised, scales = quantise_rows(tokens.flatten(0, -2))
        outputs = torch.addcmul(self.bias, multiply(quantised, self.packed, self.scales), scales)
        return outputs.unflatten(0, tokens.shape[:-1])


def quantise_block(block: nn.Module) -> LinearLayers:
    """Return the linear layers of a float32 block in int8, with its activation between them."""
    attn = block.attn
    return LinearLayers(
        Int8Linear(attn.in_proj_weight, attn.in_proj_bias),
        Int8Linear(attn.out_proj.weight, attn.out_proj.bias),
        [
            Int8Linear(layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer
            for layer in block.mlp
        ],
    )


def quantise_tower(visual: nn.Module) -> None:
    """Give each block of a float32 tower its layers in int8, which `models.clip.blocks` then uses.

    Raises InputError for a tower whose blocks are not supported.
    """
    if reason := unsupported_part(visual):
        raise InputError(
            f"{label('model')}: its vision tower cannot be quantised ({reason}); use --precision "
            "fp32"
        )
    for block in visual.transformer.resblocks:
        block.int8 = quantise_block(block)


def unsupported_reason() -> str:
    """Return why torch cannot compute exact 8-bit products and what to do, "" if it can."""
    if not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return f'torch {torch.__version__} was built without oneDNN\'s 8-bit products; use "fp32"'
    # The largest values, whose sums in 16 bits would saturate.
    tokens, weight = torch.full((2, 64, 64), 127, dtype=torch.int8)
    products = multiply(tokens, pack(weight), torch.ones(64))
    if not (products == 127 * 127 * 64).all():
        return (
            "oneDNN saturates 8-bit products, so it does not use this CPU's VNNI instructions; "
            'unset ONEDNN_MAX_CPU_ISA if it is set, otherwise use "fp32"'
        )
    return ""

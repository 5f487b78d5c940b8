"""Check that a tower of open_clip can be computed step by step; suggest a model if it cannot.

The contents of a block decide, not its class: its attention is torch's MultiheadAttention up to
open_clip 3 and open_clip's own from 4.0 on.
"""

from collections.abc import Sequence

import open_clip
from open_clip.transformer import VisionTransformer
from torch import nn

from utils.cli import label, spell
from utils.errors import InputError

RECOMMENDED_MODELS = ("ViT-B-16-plus-240", "ViT-B-32", "ViT-L-14")
TESTED_OPEN_CLIP = "3.3.0"  # the newest release that has been tested
# All that a block and its attention may contain; dropout does nothing in eval mode.
BLOCK_PARTS = {"ln_1", "attn", "ls_1", "ln_2", "mlp", "ls_2"}
ATTENTION_PARTS = {"in_proj_weight", "in_proj_bias", "out_proj", "attn_drop", "out_drop"}


def check_tower(visual: nn.Module) -> None:
    """Raise InputError for a vision tower that cannot embed windows separately."""
    if reason := unsupported_tower(visual):
        # The recommended models are like this one; a future open_clip may build it differently.
        plain = VisionTransformer(32, 16, width=16, layers=2, heads=1, mlp_ratio=4.0)
        advice = (
            f"this version of open_clip ({open_clip.__version__}) has none that is supported; "
            f"install open_clip_torch=={TESTED_OPEN_CLIP}"
            if unsupported_tower(plain)
            else f"choose one such as {', '.join(RECOMMENDED_MODELS)}"
        )
        raise InputError(
            f"{label('model')}: {reason}; windows need open_clip's VisionTransformer with a class "
            f"token and plain residual attention blocks; {advice}"
        )


def check_scales(scales: Sequence[int], grid: tuple[int, int]) -> None:
    """Raise InputError for windows of `scales` patches, unless all fit the grid."""
    largest = min(grid)
    if any(not 1 <= size <= largest for size in scales):
        raise InputError(
            f"{spell('scales', scales)}: expected window sizes from 1 to {largest} patches for "
            "this model"
        )


def unsupported_tower(visual: nn.Module) -> str:
    """Return why a vision tower cannot embed windows separately, "" if it can."""
    if not isinstance(visual, VisionTransformer):
        return f"its vision tower is a {type(visual).__name__}"
    if len(visual.transformer.resblocks) < 2:
        return "its vision tower has a single block"
    if visual.attn_pool is not None or visual.pool_type != "tok":
        return "its image embedding is not the class token's"
    return unsupported_part(visual)


def unsupported_part(tower: nn.Module) -> str:
    """Return what `models.clip.blocks` cannot compute in a tower, "" if it can compute all."""
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", ())
    if len(blocks) == 0:
        return "it has no residual attention blocks"
    return next(filter(None, map(unsupported_part_of_block, blocks)), "")


def unsupported_part_of_block(block: nn.Module) -> str:
    """Return what `models.clip.blocks` cannot compute in a block, "" if it can compute all."""
    attn = getattr(block, "attn", None)
    if missing := {"ln_1", "attn", "ln_2", "mlp"} - contents(block):
        return f"its blocks have no {min(missing)}"
    if missing := {"in_proj_weight", "in_proj_bias", "out_proj"} - contents(attn):
        return f"its attention has no {min(missing)}"
    if not (hasattr(attn, "num_heads") and hasattr(attn, "head_dim")):
        return "its attention does not say how many heads it has"
    if extra := contents(block) - BLOCK_PARTS:
        return f"its blocks have {', '.join(sorted(extra))}"
    if extra := contents(attn) - ATTENTION_PARTS:
        return f"its attention has {', '.join(sorted(extra))}"
    if getattr(attn, "add_zero_attn", False):
        return "its attention has add_zero_attn"
    if getattr(attn, "scale", attn.head_dim**-0.5) != attn.head_dim**-0.5:
        return "its attention scales logits in its own way"
    return "" if isinstance(block.mlp, nn.Sequential) else "its MLP is not a sequence of layers"


def contents(module: nn.Module | None) -> set[str]:
    """Return the names of a module's own parameters, and of its children except `nn.Identity`."""
    if module is None:
        return set()
    children = module.named_children()
    active = {name for name, child in children if not isinstance(child, nn.Identity)}
    return active | {name for name, _ in module.named_parameters(recurse=False)}

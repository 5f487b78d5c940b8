"""Small CLIPs with seeded random weights, of the shapes that the tests need."""

import json
from pathlib import Path

from models.clip.weights import LoadedClip, load_clip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
# (image_size, patch_size) of the paper's backbone and of two common ones: grids 15, 7 and 16.
KINDS = {"ViT-B-16-plus-240": (240, 16), "ViT-B-32": (224, 32), "ViT-L-14": (224, 14)}


def write_config(folder: Path, name: str, image_size: int, patch_size: int, **vision) -> Path:
    """Write a model config: the shapes of a real model, except width and depth."""
    cfg = {"image_size": image_size, "patch_size": patch_size, "layers": 3, "width": 64}
    cfg |= {"head_width": 16} | vision
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"embed_dim": 48, "vision_cfg": cfg, "text_cfg": TEXT}))
    return path


def small_clip(folder: Path, kind: str = "ViT-B-16-plus-240", **vision) -> LoadedClip:
    """Build a small CLIP with the grid of `kind`."""
    image_size, patch_size = KINDS[kind]
    config = write_config(folder, f"small-{kind}", image_size, patch_size, **vision)
    return load_clip(str(config), "random")

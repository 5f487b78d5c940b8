"""Check which blocks are supported, with stand-ins for the attention of every open_clip version."""

import re

import open_clip
import pytest
import torch
from torch import nn

from models.clip import towers
from models.clip.encoder import WindowedEncoder
from models.clip.text import can_share_prefixes, encode_text
from models.clip.towers import RECOMMENDED_MODELS
from tests.clips import KINDS, small_clip
from utils.errors import InputError
from utils.files import PROJECT

WIDTH, HEADS = 64, 4


class OwnAttention(nn.Module):
    """The parts of open_clip 4's attention, all that a block may use of it included."""

    def __init__(self, width: int, heads: int, packed: bool = True, norms: tuple[str, ...] = ()):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.scaled_cosine = self.scale_heads = False
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width)) if packed else None
        self.q_proj_weight = None if packed else nn.Parameter(torch.zeros(width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.logit_scale = self.head_scale = None
        for name in ("ln_q", "ln_k", "ln_inner"):
            self.add_module(name, nn.LayerNorm(width) if name in norms else nn.Identity())
        self.attn_drop, self.out_drop = nn.Dropout(0.0), nn.Dropout(0.0)
        self.out_proj = nn.Linear(width, width)


def with_attention(tower: nn.Module, build) -> None:
    """Replace the attention of a tower's blocks by `build(width, heads)` with the same weights."""
    for block in tower.transformer.resblocks:
        attention = build(block.attn.in_proj_weight.shape[1], block.attn.num_heads)
        attention.load_state_dict(block.attn.state_dict())
        block.attn = attention


@pytest.mark.parametrize("attention", [nn.MultiheadAttention, OwnAttention])
def test_the_attention_of_every_version_gives_open_clips_embeddings(tmp_path, attention):
    clip = small_clip(tmp_path, ls_init_value=0.5)
    pixels = torch.randn(2, 3, 240, 240, generator=torch.Generator().manual_seed(1))
    prompts = ["a photo of a bottle.", "a photo of a damaged bottle."]
    with torch.inference_mode():
        image = clip.model.encode_image(pixels)
        text = clip.model.encode_text(clip.tokenizer(prompts))
    for tower in (clip.model.visual, clip.model):
        with_attention(tower, attention)
    assert can_share_prefixes(clip.model)
    features = WindowedEncoder(clip.model.visual).encode_images(pixels)
    torch.testing.assert_close(features.image, image, atol=1e-5, rtol=0)
    actual = encode_text(clip.model, clip.tokenizer, prompts)
    torch.testing.assert_close(actual, text, atol=1e-5, rtol=0)


def with_attribute(name: str, value: object) -> OwnAttention:
    attention = OwnAttention(WIDTH, HEADS)
    setattr(attention, name, value)
    return attention


PER_HEAD = nn.Parameter(torch.ones(HEADS, 1, 1))
UNSUPPORTED = {
    "attention has ln_k, ln_q": OwnAttention(WIDTH, HEADS, norms=("ln_q", "ln_k")),
    "attention has ln_inner": OwnAttention(WIDTH, HEADS, norms=("ln_inner",)),
    "attention has no in_proj_weight": OwnAttention(WIDTH, HEADS, packed=False),
    "attention has head_scale": with_attribute("head_scale", PER_HEAD),
    "attention has logit_scale": with_attribute("logit_scale", PER_HEAD),
    "attention scales logits": with_attribute("scale", 1.0),
    "attention has no in_proj_bias": nn.MultiheadAttention(WIDTH, HEADS, bias=False),
    "attention has bias_k, bias_v": nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True),
    "attention has add_zero_attn": nn.MultiheadAttention(WIDTH, HEADS, add_zero_attn=True),
    "attention has no in_proj_weight ": nn.MultiheadAttention(WIDTH, HEADS, kdim=8, vdim=8),
    "blocks have no attn": nn.Identity(),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_a_refusal_names_what_is_unsupported(tmp_path, reason):
    clip = small_clip(tmp_path)
    for tower in (clip.model.visual, clip.model):
        tower.transformer.resblocks[-1].attn = UNSUPPORTED[reason]
    with pytest.raises(InputError, match=rf"MODEL: its {reason.strip()}.*such as ViT-B-16-plus"):
        WindowedEncoder(clip.model.visual)
    assert not can_share_prefixes(clip.model)


@pytest.mark.parametrize(
    ("name", "module", "reason"),
    [
        ("ln_attn", nn.LayerNorm(WIDTH), "blocks have ln_attn"),
        ("ln_1_kv", nn.LayerNorm(WIDTH), "blocks have ln_1_kv"),
        ("mlp", nn.Linear(WIDTH, WIDTH), "MLP is not a sequence of layers"),
    ],
)
def test_a_block_with_other_layers_is_refused(tmp_path, name, module, reason):
    clip = small_clip(tmp_path)
    clip.model.visual.transformer.resblocks[1].add_module(name, module)
    with pytest.raises(InputError, match=reason):
        WindowedEncoder(clip.model.visual)


def test_identities_in_place_of_optional_layers_are_supported(tmp_path):
    clip = small_clip(tmp_path)
    clip.model.visual.transformer.resblocks[1].add_module("ln_attn", nn.Identity())
    WindowedEncoder(clip.model.visual)


@pytest.mark.parametrize("name", RECOMMENDED_MODELS)
def test_recommended_models_have_the_plain_towers_of_the_tests(name):
    vision = open_clip.get_model_config(name)["vision_cfg"]
    assert (vision["image_size"], vision["patch_size"]) == KINDS[name]
    assert vision.keys() <= {"image_size", "patch_size", "layers", "width", "head_width"}


def test_where_no_model_is_supported_none_is_recommended(tmp_path, monkeypatch):
    clip = small_clip(tmp_path)
    monkeypatch.setattr(towers, "unsupported_part", lambda tower: "its blocks are new")
    with pytest.raises(InputError) as caught:
        WindowedEncoder(clip.model.visual)
    assert "install open_clip_torch==" in str(caught.value)
    assert not any(name in str(caught.value) for name in RECOMMENDED_MODELS)


def test_ci_runs_with_the_newest_and_the_oldest_open_clip():
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("open_clip"))
    assert re.fullmatch(r"open_clip_torch>=[\d.]+", line)  # no upper bound: pip takes the newest
    assert "sed 's/>=/==/' requirements.txt" in (PROJECT / ".ci" / "run").read_text()

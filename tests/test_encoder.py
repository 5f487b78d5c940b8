import json
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F

from models.clip.encoder import WindowedEncoder
from models.clip.text import encode_states, encode_text, prefix_trie
from models.clip.weights import LoadedClip, load_clip
from models.prompts import prompt_ensemble
from models.windows import window_indices
from tests.clips import KINDS, small_clip, write_config
from utils.errors import InputError


@pytest.fixture(scope="module", params=list(KINDS))
def clip(request, tmp_path_factory):
    """Build a CLIP of each kind, with layer scale, and without constant weights or biases."""
    clip = small_clip(tmp_path_factory.mktemp("clip"), request.param, ls_init_value=0.5)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in clip.model.named_parameters():
            if name != "logit_scale":
                value.add_(0.02 * torch.randn(value.shape, generator=generator))
    return clip


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return small_clip(tmp_path_factory.mktemp("clip"))


def pixels_of(clip, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, clip.image_size, clip.image_size, generator=generator)


@torch.inference_mode()
def tokens_by_hand(visual, pixels: torch.Tensor, patches: torch.Tensor) -> list[torch.Tensor]:
    """Return all tokens after each block, the plain way: drop the other patches, run the blocks."""
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    classes = visual.class_embedding.expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([classes, x], dim=1) + visual.positional_embedding)
    x = x[:, torch.cat([torch.tensor([0]), patches + 1])]
    after = []
    for block in visual.transformer.resblocks:
        x = block(x)
        after.append(x)
    return after


@torch.inference_mode()
def window_by_hand(visual, pixels: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Embed one window from its patches."""
    return visual.ln_post(tokens_by_hand(visual, pixels, patches)[-1][:, 0]) @ visual.proj


def test_the_image_embedding_equals_open_clips(clip):
    pixels = pixels_of(clip, 2)
    with torch.inference_mode():
        expected = clip.model.encode_image(pixels)
    actual = WindowedEncoder(clip.model.visual).encode_images(pixels).image
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_the_window_that_covers_the_whole_grid_is_the_image_embedding(clip):
    whole = clip.model.visual.grid_size[0]
    pixels = pixels_of(clip, 2)
    features = WindowedEncoder(clip.model.visual, scales=(whole,)).encode_images(pixels)
    with torch.inference_mode():
        expected = clip.model.encode_image(pixels)
    assert features.windows[0].shape[1] == 1
    torch.testing.assert_close(features.windows[0][:, 0], expected, atol=1e-5, rtol=0)


def test_the_layout_has_the_sequences_and_tokens_of_the_module_docstring(plain):
    encoder = WindowedEncoder(plain.model.visual)
    assert encoder.group_shapes == [(1, 226), (196, 5), (169, 10)]
    assert sum(count for count, _ in encoder.group_shapes) == 366
    assert len(encoder.token_index) == 2896


def test_every_window_equals_the_plain_forward_of_its_patches(clip):
    encoder = WindowedEncoder(clip.model.visual, scales=(1, 2, 3))
    pixels = pixels_of(clip, 2)
    features = encoder.encode_images(pixels)
    for scale, windows in zip(encoder.scales, features.windows, strict=True):
        indices = window_indices(encoder.grid, scale)
        assert windows.shape[1] == len(indices)
        for row in (0, len(indices) // 2, len(indices) - 1):
            expected = window_by_hand(clip.model.visual, pixels, indices[row])
            torch.testing.assert_close(windows[:, row], expected, atol=1e-5, rtol=0)


def test_heads_are_split_without_copies(plain, monkeypatch):
    attend, storages = F.scaled_dot_product_attention, []

    def record(*qkv, **options):
        storages.append({tensor.untyped_storage().data_ptr() for tensor in qkv})
        return attend(*qkv, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    WindowedEncoder(plain.model.visual).encode_images(pixels_of(plain, 2))
    assert len(storages) == 3 + 3 + 1  # of three blocks; the last one computes class tokens only
    assert all(len(storage) == 1 for storage in storages)  # queries, keys and values are views


def test_attention_by_rows_of_windows_gives_the_same_embeddings(clip):
    pixels = pixels_of(clip, 2)
    encoders = [
        WindowedEncoder(clip.model.visual, scales=(1, 2, 3), by_rows=by_rows)
        for by_rows in (False, True)
    ]
    by_window, by_row = (encoder.encode_images(pixels) for encoder in encoders)
    assert torch.equal(by_row.image, by_window.image)
    assert torch.equal(by_row.patches, by_window.patches)
    for actual, expected in zip(by_row.windows, by_window.windows, strict=True):
        unit = (F.normalize(actual, dim=-1), F.normalize(expected, dim=-1))
        torch.testing.assert_close(*unit, atol=2e-7, rtol=0)


def test_windows_of_a_structured_image_differ_from_each_other(clip):
    side = clip.image_size
    pixels = torch.linspace(-2, 2, side * side).reshape(1, 1, side, side).expand(1, 3, -1, -1)
    features = WindowedEncoder(clip.model.visual).encode_images(pixels)
    for windows in features.windows:
        distances = torch.cdist(windows[0], windows[0])
        distances.fill_diagonal_(torch.inf)
        assert distances.min() > 1e-4


def test_an_image_is_encoded_alone_as_in_a_batch(plain):
    encoder = WindowedEncoder(plain.model.visual)
    pixels = pixels_of(plain, 3)
    together, alone = encoder.encode_images(pixels), encoder.encode_images(pixels[1:2])
    torch.testing.assert_close(together.image[1:2], alone.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.patches[1:2], alone.patches, atol=1e-5, rtol=0)
    for batch, single in zip(together.windows, alone.windows, strict=True):
        torch.testing.assert_close(batch[1:2], single, atol=1e-5, rtol=0)


def test_an_encoder_without_windows_has_the_same_embedding_and_patches(plain):
    pixels = pixels_of(plain, 2)
    full = WindowedEncoder(plain.model.visual).encode_images(pixels)
    alone = WindowedEncoder(plain.model.visual, scales=()).encode_images(pixels)
    classes = WindowedEncoder(plain.model.visual, (), patch_tokens=None).encode_images(pixels)
    assert alone.windows == () and classes.patches.shape[:2] == (2, 0)
    assert torch.equal(alone.image, full.image) and torch.equal(classes.image, full.image)
    assert torch.equal(alone.patches, full.patches)


def test_patch_tokens_are_those_of_the_protocol(plain):
    visual, pixels = plain.model.visual, pixels_of(plain, 1)
    actual = {
        kind: WindowedEncoder(plain.model.visual, patch_tokens=kind).encode_images(pixels).patches
        for kind in ("post_ln", "pre_ln", "penultimate")
    }
    after = [x[:, 1:] for x in tokens_by_hand(visual, pixels, torch.arange(225))]
    with torch.inference_mode():
        visual.output_tokens = True
        try:
            post_ln = visual(pixels)[1]
        finally:
            visual.output_tokens = False
    torch.testing.assert_close(actual["post_ln"], post_ln, atol=1e-5, rtol=0)
    torch.testing.assert_close(actual["pre_ln"], after[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(actual["penultimate"], after[-2], atol=1e-5, rtol=0)


def test_the_choice_of_patch_tokens_does_not_affect_embeddings(plain):
    pixels = pixels_of(plain, 1)
    encoders = [
        WindowedEncoder(plain.model.visual, patch_tokens=kind)
        for kind in ("post_ln", "penultimate")
    ]
    first, second = (encoder.encode_images(pixels) for encoder in encoders)
    torch.testing.assert_close(first.image, second.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.windows[0], second.windows[0], atol=1e-5, rtol=0)


PROMPTS = (
    "a photo of a bottle.",
    "a photo of a bottle",  # a prefix of the first one
    "a photo of a bottle.",  # the first one again
    "a jpeg corrupted photo of the metal nut without damage.",
    "a",
)


def clip_with_text(folder: Path, custom: bool, **text) -> LoadedClip:
    """Build a small CLIP with options of its text tower, which is a separate module if `custom`."""
    path = write_config(folder, "with-text", *KINDS["ViT-B-32"])
    config = json.loads(path.read_text()) | {"custom_text": custom}
    config["text_cfg"] |= text
    path.write_text(json.dumps(config))
    return load_clip(str(path), "random")


@pytest.mark.parametrize(
    ("custom", "text"),
    [
        *((False, {}), (True, {}), (True, {"proj_bias": True}), (True, {"proj_type": "none"})),
        (True, {"pool_type": "last"}),  # not read at the end token: left to open_clip
    ],
)
def test_prompts_that_share_prefixes_are_embedded_as_by_open_clip(tmp_path, custom, text):
    clip = clip_with_text(tmp_path, custom, **text)
    assert hasattr(clip.model, "text") == custom
    with torch.inference_mode():
        expected = clip.model.encode_text(clip.tokenizer(list(PROMPTS)))
    actual = encode_text(clip.model, clip.tokenizer, PROMPTS)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_a_prompt_is_embedded_alone_as_in_a_batch(plain):
    alone = [encode_text(plain.model, plain.tokenizer, [prompt]) for prompt in PROMPTS]
    together = encode_text(plain.model, plain.tokenizer, PROMPTS)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_states_are_embedded_together_and_returned_one_by_one(plain):
    states = encode_states(plain.model, plain.tokenizer, PROMPTS[:2], PROMPTS[2:])
    assert [len(prompts) for prompts in states] == [2, 3]
    expected = encode_text(plain.model, plain.tokenizer, PROMPTS)
    torch.testing.assert_close(torch.cat(states), expected, atol=1e-5, rtol=0)


def test_the_prompt_ensemble_shares_most_of_its_tokens(plain):
    normal, anomalous = prompt_ensemble("metal nut")
    tokens = plain.tokenizer(normal + anomalous)
    ends = tokens.argmax(dim=-1)
    _, first = prefix_trie(tokens, ends)
    rows = zip(tokens.tolist(), ends.tolist(), strict=True)
    prefixes = {tuple(row[: k + 1]) for row, end in rows for k in range(end + 1)}
    assert len(first) == len(prefixes)
    assert len(first) < 0.4 * (ends + 1).sum()


def test_a_window_larger_than_the_grid_is_an_input_error(plain):
    with pytest.raises(InputError, match="1 to 15 patches"):
        WindowedEncoder(plain.model.visual, scales=(2, 16))


@pytest.mark.parametrize(
    ("vision", "reason"),
    [
        ({"pool_type": "avg"}, "not the class token's"),
        ({"attentional_pool": True}, "not the class token's"),
        ({"layers": 1}, "a single block"),
    ],
)
def test_towers_without_window_embeddings_are_an_input_error(tmp_path, vision, reason):
    clip = small_clip(tmp_path, **vision)
    with pytest.raises(InputError, match=reason):
        WindowedEncoder(clip.model.visual)


def test_a_resnet_is_an_input_error():
    model = open_clip.create_model("RN50")
    with pytest.raises(InputError, match=r"ModifiedResNet.*windows need"):
        WindowedEncoder(model.visual)


@pytest.mark.slow
def test_the_whole_grid_window_is_the_image_embedding_at_full_size():
    clip = load_clip("ViT-B-16-plus-240", "random")
    whole = clip.model.visual.grid_size[0]
    pixels = pixels_of(clip, 1)
    features = WindowedEncoder(clip.model.visual, scales=(whole,)).encode_images(pixels)
    with torch.inference_mode():
        expected = clip.model.encode_image(pixels)
    torch.testing.assert_close(features.image, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.windows[0][:, 0], expected, atol=1e-5, rtol=0)

"""8-bit products: their arithmetic, the embeddings that they give, and where they are refused."""

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from models.clip import blocks, device, int8
from models.clip.device import check_precision, to_device
from models.clip.encoder import WindowedEncoder
from models.clip.int8 import Int8Linear, quantise_rows
from models.clip.weights import LoadedClip, load_clip
from tests.clips import small_clip
from utils.errors import InputError
from utils.files import PROJECT
from utils.run.benchmark import run

CPU = torch.device("cpu")
DEMO_CLIP = PROJECT / "models" / "demo_clip"
LARGEST_CHANGE = 2e-4  # of embeddings: 1 - cosine


def exact_products(tokens, weight, scales):
    """Stand in for `int8.multiply` of an unpacked weight; float64 holds these sums exactly."""
    return (tokens.double() @ weight.double().T).float() * scales


@pytest.fixture
def exact(monkeypatch):
    """Compute 8-bit products exactly also on a CPU whose products saturate."""
    if int8.unsupported_reason():
        monkeypatch.setattr(int8, "pack", lambda weight: weight)
        monkeypatch.setattr(int8, "multiply", exact_products)


def bytes_of(*shape: int, largest: int = 127, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).to(torch.int8)


def rows_of(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return random rows whose magnitudes differ by a factor of a thousand."""
    generator = torch.Generator().manual_seed(seed)
    magnitudes = 10 ** torch.empty(shape[0], 1).uniform_(-2, 1, generator=generator)
    return torch.randn(shape, generator=generator) * magnitudes


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 8, 3), (64, 64, 64), (513, 100, 37)])
def test_products_are_those_of_integers(tokens, inputs, outputs):
    x = bytes_of(tokens, inputs)
    x[0] = -127
    w = bytes_of(outputs, inputs, largest=64, seed=1)  # 255 * 64 * 2 fits into 16 bits: any CPU
    w[0] = 64
    expected = x.long() @ w.long().T
    scales = torch.full((outputs,), 0.5)
    actual = int8.multiply(x.clone(), int8.pack(w), scales)
    assert torch.equal(actual.double(), expected * 0.5)
    assert torch.equal(exact_products(x, w, scales), actual)  # the stand-in of the other tests


def test_a_row_is_rounded_to_its_own_127_steps():
    rows = rows_of(40, 33)
    quantised, scales = quantise_rows(rows.clone())
    assert torch.equal(quantised.abs().amax(1), torch.full((40,), 127, dtype=torch.int8))
    error = (quantised * scales - rows).abs().amax(1)
    assert (error <= 0.5001 * rows.abs().amax(1) / 127).all()


def test_a_layer_of_two_inputs_by_hand(exact):
    layer = Int8Linear(torch.tensor([[1.0, -0.5], [0.0, 2.54]]), torch.tensor([10.0, 0.0]))
    # Weights: [127, -64] / 127 and [0, 127] * 0.02; the token is [127, 64] * 2.
    actual = layer(torch.tensor([[254.0, 127.0]]))
    expected = [[10 + 2 / 127 * (127 * 127 - 64 * 64), 2 * 0.02 * 127 * 64]]
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_a_layer_multiplies_rounded_tokens_by_rounded_weights(exact):
    weight, bias, tokens = rows_of(30, 64), torch.randn(30), rows_of(50, 64, seed=1)
    (q, s), (p, t) = quantise_rows(weight.clone()), quantise_rows(tokens.clone())
    expected = (p.double() * t) @ (q.double() * s).T + bias
    torch.testing.assert_close(
        Int8Linear(weight, bias)(tokens).double(), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_undefined_token_stays_undefined(exact, value):
    layer = Int8Linear(rows_of(4, 8), torch.zeros(4))
    tokens = torch.ones(2, 8)
    tokens[0, 3] = value
    finite = layer(tokens).isfinite()
    assert finite[1].all() and not finite[0].any()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> LoadedClip:
    return small_clip(tmp_path_factory.mktemp("clip"), ls_init_value=0.5)


def test_the_steps_of_a_block_are_those_of_its_rounded_layers(exact, tiny, monkeypatch):
    block = tiny.model.visual.transformer.resblocks[0]
    monkeypatch.setattr(block, "int8", int8.quantise_block(block), raising=False)
    x, attended = rows_of(40, 64), rows_of(40, 64, seed=1)

    def linear(tokens, weight, bias):
        (q, s), (p, t) = quantise_rows(weight.detach().clone()), quantise_rows(tokens.clone())
        return F.linear(p * t, q * s, bias)

    with torch.inference_mode():
        attn, (fc, gelu, proj) = block.attn, block.mlp
        qkv = linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        added = x + block.ls_1(linear(attended, attn.out_proj.weight, attn.out_proj.bias))
        hidden = gelu(linear(block.ln_2(x), fc.weight, fc.bias))
        mlp = x + block.ls_2(linear(hidden, proj.weight, proj.bias))
        before = x.clone()
        pairs = [
            (blocks.project_qkv(block, x.view(4, 10, 64)).flatten(0, 1), qkv),
            (blocks.add_attention(block, x, attended.clone()), added),
            (blocks.add_mlp(block, x.view(4, 10, 64)).flatten(0, 1), mlp),
        ]
    assert torch.equal(x, before)
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def changes(clip: LoadedClip, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return 1 - cosine of every embedding in int8 and in fp32; leaves the tower in int8."""
    encoder = WindowedEncoder(clip.model.visual)
    results = []
    for precision in ("fp32", "int8"):
        to_device(clip.model, CPU, precision)
        features, crops = encoder.encode_images(pixels), encoder.encode_crops(pixels)
        assert torch.equal(encoder.encode_crops(pixels), crops)
        windows = torch.cat(features.windows, 1)
        embeddings = features.image, crops, windows, features.patches
        results.append([embedding.double() for embedding in embeddings])
    cosines = map(partial(F.cosine_similarity, dim=-1), *results)
    kinds = ("image", "crops", "windows", "patches")
    return {kind: 1 - cosine for kind, cosine in zip(kinds, cosines, strict=True)}


def test_embeddings_of_a_small_tower_hardly_change(exact, tmp_path):
    clip = small_clip(tmp_path)
    change = changes(clip, rows_of(2, 3 * 240 * 240).view(2, 3, 240, 240))
    for values in change.values():
        assert 1e-9 < values.max() < LARGEST_CHANGE


def test_image_embeddings_of_the_demo_hardly_change(exact):
    clip = load_clip(str(DEMO_CLIP / "demo-clip.json"), str(DEMO_CLIP / "demo-clip.safetensors"))
    with Image.open(PROJECT / "docs" / "demo.png") as image:
        square = image.convert("RGB").resize((clip.image_size, clip.image_size))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (clip.mean, clip.std))
    change = changes(clip, (pixels - mean) / std)
    assert change["image"].max() < LARGEST_CHANGE
    assert change["windows"].mean() < 5e-4  # a few change more
    assert change["patches"].mean() < 5e-4


def test_a_run_in_int8_keeps_features_that_say_so(exact, monkeypatch, mvtec_settings, tmp_path):
    monkeypatch.setattr(device, "cpu_reports", lambda *instructions: True)
    products, multiply = [], int8.multiply
    monkeypatch.setattr(int8, "multiply", lambda *given: products.append(0) or multiply(*given))
    changes = {"categories": ("bottle",), "shots": (0,), "seeds": (0,), "heatmaps": "none"}
    changes |= {"limit": 1, "precision": "int8", "features": "keep"}
    settings = replace(mvtec_settings, result_dir=str(tmp_path / "int8"), **changes)
    run(settings)
    assert products
    features = settings.result_folder / "features" / "features.json"
    assert json.loads(features.read_text())["encoding"]["precision"] == "int8"
    changes = {"precision": "fp32", "features": settings.result_dir}
    with pytest.raises(InputError, match="--precision was int8, now fp32"):
        run(replace(settings, result_dir=str(tmp_path / "fp32"), **changes))


def test_text_stays_in_fp32(exact, tmp_path):
    clip = small_clip(tmp_path)
    to_device(clip.model, CPU, "int8")
    assert all(hasattr(block, "int8") for block in clip.model.visual.transformer.resblocks)
    assert not any(hasattr(block, "int8") for block in clip.model.transformer.resblocks)
    assert {value.dtype for value in clip.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_precision_replaces_int8(exact, tmp_path, precision):
    clip, pixels = small_clip(tmp_path), rows_of(1, 3 * 240 * 240).view(1, 3, 240, 240)
    results = []
    for precisions in ((precision,), ("fp32", "int8", precision)):
        model = copy.deepcopy(clip.model)
        for name in precisions:
            to_device(model, CPU, name)
        results.append(WindowedEncoder(model.visual).encode_crops(pixels))
    assert torch.equal(*results)


def test_a_tower_without_plain_blocks_is_one_sentence():
    model = nn.Module()
    model.visual = nn.Linear(1, 1)  # or a ResNet
    with pytest.raises(InputError, match=r"quantised \(it has no residual attention blocks\); use"):
        to_device(model, CPU, "int8")


def test_quick_gelu_and_other_activations_are_left_as_they_are(exact, tmp_path):
    block = small_clip(tmp_path).model.visual.transformer.resblocks[0]
    x, results = rows_of(3, 64), []
    for block.mlp.gelu in (nn.GELU(), open_clip.transformer.QuickGELU()):
        expected = blocks.add_mlp(block, x)
        block.int8 = int8.quantise_block(block)
        results.append(blocks.add_mlp(block, x))
        del block.int8
        torch.testing.assert_close(results[-1], expected, rtol=0.02, atol=0.02)
    assert not torch.equal(*results)


def cpu_with(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags\t: fpu avx2 {' '.join(flags)}\n")


def saturating_products(tokens, weight, scales):
    """Add pairs of products in 16 bits, like CPUs without VNNI: at most 32767."""
    pairs = (tokens.long() + 128)[:, None] * weight.long()
    sums = pairs.unflatten(2, (-1, 2)).sum(3).clamp(-32768, 32767).sum(2)
    return (sums - 128 * weight.long().sum(1)).float() * scales


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni"])
def test_a_cpu_with_vnni_takes_int8(exact, monkeypatch, flag):
    cpu_with(monkeypatch, flag)
    assert check_precision(CPU, "int8") == ""


@pytest.mark.parametrize("flags", [(), ("avx512f", "avx512bw"), ("asimddp", "i8mm")])
def test_a_cpu_without_vnni_refuses_int8(exact, monkeypatch, flags):
    cpu_with(monkeypatch, *flags)
    with pytest.raises(InputError, match=r'"int8": this CPU reports no .* saturate; use "fp32"$'):
        check_precision(CPU, "int8")


@pytest.mark.parametrize("name", ["_is_vnni_supported", "_is_cpu_support_vnni"])
def test_torch_reports_vnni_where_there_is_no_cpuinfo(exact, monkeypatch, name):
    def no_file(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", no_file)
    for function in device.VNNI[1]:
        monkeypatch.delattr(torch.cpu, function, raising=False)
    with pytest.raises(InputError, match="no AVX-512 VNNI"):
        check_precision(CPU, "int8")
    monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    assert check_precision(CPU, "int8") == ""


def test_saturating_products_refuse_int8_whatever_the_flags(monkeypatch):
    monkeypatch.setattr(int8, "pack", lambda weight: weight)
    monkeypatch.setattr(int8, "multiply", saturating_products)
    cpu_with(monkeypatch, "avx512_vnni")
    with pytest.raises(InputError, match=r'saturates 8-bit .* if it is set, otherwise use "fp32"$'):
        check_precision(CPU, "int8")


def test_a_torch_without_the_product_refuses_int8(monkeypatch):
    cpu_with(monkeypatch, "avx512_vnni")
    monkeypatch.setattr(torch.ops, "onednn", object())
    with pytest.raises(InputError, match=r'was built without .* 8-bit products; use "fp32"$'):
        check_precision(CPU, "int8")


def test_cuda_refuses_int8():
    with pytest.raises(InputError, match=r'"int8" is for CPUs .* on CUDA use "bf16" or "fp16"'):
        check_precision(torch.device("cuda:0"), "int8")

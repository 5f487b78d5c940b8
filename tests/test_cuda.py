"""Check the CUDA path: without a GPU on fake tensors and simulated devices, and on a real GPU.

Tests marked with `gpu` need one, and are skipped elsewhere.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from benchmarks import precision as precision_benchmark
from benchmarks.memory import peak_bytes
from models.clip import device as device_module
from models.clip.device import (
    DTYPES,
    check_precision,
    matmul_precision,
    resolve_device,
    set_matmul_precision,
    to_device,
    without_cudnn_attention,
)
from models.clip.encoder import WindowedEncoder
from models.clip.text import encode_states
from models.clip.weights import load_clip
from models.leave_one_out import ReferenceTiles, lazy_maxima, leave_one_out_distances
from models.winclip import Features, TextBank, VisualBank, winclip
from tests.clips import small_clip, write_config
from tests.fake_cuda import CUDA, computed, fake_cuda
from utils.errors import InputError

PROMPTS = (["a photo of a bottle.", "a bottle"], ["a photo of a damaged bottle."])
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
if torch.cuda.is_available():
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts


@pytest.fixture
def config(tmp_path) -> str:
    return str(write_config(tmp_path, "small-cuda", 240, 16, layers=2, ls_init_value=0.5))


# On fake tensors: any operation with tensors of two devices raises an error.


@pytest.mark.parametrize("precision", DTYPES)
def test_images_are_encoded_on_cuda_in_every_precision(config, precision):
    with fake_cuda():
        clip = load_clip(config, "random")
        to_device(clip.model, CUDA, precision)
        assert clip.model.visual.proj.dtype == DTYPES[precision]
        assert clip.model.token_embedding.weight.dtype == torch.float32
        for kind in ("post_ln", "pre_ln", "penultimate"):
            encoder = WindowedEncoder(clip.model.visual, (2, 3), kind, precision == "tf32")
            features = encoder.encode_images(torch.zeros(2, 3, 240, 240))
            tensors = [features.image, *features.windows, features.patches]
            shapes = [(2, 48), (2, 196, 48), (2, 169, 48), (2, 225, 64)]
            assert [tuple(tensor.shape) for tensor in tensors] == shapes
            assert all(t.device == CUDA and t.dtype == torch.float32 for t in tensors)


def test_text_banks_and_all_scores_are_computed_on_cuda(config):
    with fake_cuda():
        clip = load_clip(config, "random")
        to_device(clip.model, CUDA, "fp16")
        states = encode_states(clip.model, computed(clip.tokenizer), *PROMPTS)
        text = TextBank.from_prompts(*states, temperature=0.07, normalise_prompts=True)
        assert text.states.device == CUDA
        encoder = WindowedEncoder(clip.model.visual)
        references = encoder.encode_images(torch.zeros(3, 3, 240, 240))
        visual = VisualBank.from_features(references)
        sets = [None, torch.arange(1, device=CUDA), torch.arange(3, device=CUDA)]
        scores, maps = winclip(references, text, visual, sets)
        assert (scores.shape, scores.device) == ((3, 3), CUDA)
        assert (maps.shape, maps.device) == ((3, 3, 15, 15), CUDA)
        tiles = ReferenceTiles(visual, maps[0], torch.tensor([0, 1, 1], device=CUDA), (2, 3))
        alone = leave_one_out_distances(tiles, range(3))
        assert [tuple(scale.shape) for scale in alone] == [(3, 196), (3, 169), (3, 225)]
        assert all(scale.device == CUDA for scale in alone)


@pytest.mark.parametrize("left_on_cpu", ["weights", "text", "bank"])
def test_tensors_of_two_devices_never_mix(config, left_on_cpu):
    with fake_cuda():
        clip = load_clip(config, "random")
        to_device(clip.model, CUDA, "fp32")
        encoder = WindowedEncoder(clip.model.visual)
        features = encoder.encode_images(torch.zeros(1, 3, 240, 240))
        text = TextBank(torch.ones(2, 48, device=CUDA), 0.07)
        visual = VisualBank.from_features(features)
        if left_on_cpu == "weights":
            clip.model.visual.transformer.resblocks[1].to("cpu")
        elif left_on_cpu == "text":
            text = TextBank(text.states.cpu(), 0.07)
        else:
            visual = VisualBank(tuple(entry.cpu() for entry in visual.entries))
        with pytest.raises(RuntimeError, match="device"):
            features = encoder.encode_images(torch.zeros(1, 3, 240, 240))
            winclip(features, text, visual, [torch.arange(1, device=CUDA)])


def test_attention_goes_by_rows_of_windows_on_cuda_only(config):
    cpu = WindowedEncoder(load_clip(config, "random").model.visual)
    assert [(length, mask is None) for length, mask in cpu.attention_layout] == [
        *((226, True), (5, True), (10, True)),
    ]
    with fake_cuda():
        clip = load_clip(config, "random")
        to_device(clip.model, CUDA, "bf16")
        full, *windows = WindowedEncoder(clip.model.visual).attention_layout
        assert full == (226, None)
        for tokens, (length, mask) in zip((14 * 5, 13 * 10), windows, strict=True):
            assert length == tokens and mask.shape == (tokens, tokens)
            assert mask.dtype == torch.bfloat16 and mask.device == CUDA
            assert mask.stride(0) % 8 == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_pass_needs_nine_times_the_memory_of_its_tokens(tmp_path, precision):
    model = small_clip(tmp_path, layers=3, width=64).model.to("meta")
    model.visual.to(DTYPES[precision])
    peaks = [peak_bytes(model, 240, tiles) for tiles in (8, 16)]
    tokens = 2896 * 64 * DTYPES[precision].itemsize
    tiles = 4 * 3 * 240 * 240
    # The residual stream, and the MLP's hidden layer, of four times its width, before and after
    # GELU.
    assert 9 * tokens < (peaks[1] - peaks[0]) / 8 - tiles < 9.5 * tokens


# On simulated devices.


def simulate_gpus(monkeypatch, count: int, current: int = 0, error: Exception | None = None):
    """Make torch see `count` GPUs, on which the trial product succeeds or raises `error`."""
    selected = []

    def multiply_on(device: torch.device) -> None:
        if error:
            raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    monkeypatch.setattr(device_module, "multiply_on", multiply_on)
    return selected


@pytest.mark.parametrize(
    ("name", "count", "current", "expected"),
    [
        *(("auto", 0, 0, "cpu"), ("cpu", 2, 0, "cpu"), ("auto", 1, 0, "cuda:0")),
        *(("auto", 4, 2, "cuda:2"), ("cuda", 4, 3, "cuda:3"), ("cuda:1", 2, 0, "cuda:1")),
    ],
)
def test_the_chosen_gpu_becomes_the_current_one(monkeypatch, name, count, current, expected):
    selected = simulate_gpus(monkeypatch, count, current)
    device = resolve_device(name)
    assert str(device) == expected
    assert selected == ([] if expected == "cpu" else [device])


@pytest.mark.parametrize(
    ("name", "count", "problem"),
    [
        *(("cuda:5", 2, "there is no such GPU; torch sees 2, numbered from 0"),),
        *(("cuda:128", 2, "there is no such GPU; torch sees 2, numbered from 0"),),
        *(("cuda", 0, "torch sees no GPU"), ("cuda:0", 0, "torch sees no GPU")),
        *(("cpu:0", 0, "a CPU has no number; expected"), ("mps", 0, "mps is not supported")),
        *(("xpu:1", 0, "xpu is not supported"), ("gpu", 2, 'expected "auto", "cpu"')),
        *(("cuda:x", 2, 'expected "auto", "cpu"'), ("cuda:-1", 2, 'expected "auto", "cpu"')),
        *(("cuda:1\n", 2, 'expected "auto", "cpu"'), ("", 2, 'expected "auto", "cpu"')),
    ],
)
def test_another_device_is_one_true_sentence(monkeypatch, name, count, problem):
    selected = simulate_gpus(monkeypatch, count)
    with pytest.raises(InputError) as caught:
        resolve_device(name)
    assert str(caught.value).startswith(f'DEVICE = "{name}": {problem}')
    assert not selected


@pytest.mark.parametrize("name", ["auto", "cuda:0"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore"),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        AssertionError("Torch not compiled with CUDA enabled"),
    ],
)
def test_a_gpu_that_cannot_multiply_is_one_sentence(monkeypatch, name, error):
    simulate_gpus(monkeypatch, 1, error=error)
    with pytest.raises(InputError) as caught:
        resolve_device(name)
    sentence = str(caught.value)
    assert f'DEVICE = "{name}": a test computation on the GPU failed ({str(error)[:20]}' in sentence
    assert "not supported by this build of torch; use --device cpu" in sentence
    assert "\n" not in sentence


def test_the_capability_asked_for_is_that_of_the_device(monkeypatch):
    capabilities = {torch.device("cuda:0"): (9, 0), torch.device("cuda:1"): (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    assert check_precision(torch.device("cuda:0"), "bf16") == ""
    with pytest.raises(InputError, match="this GPU has no bf16"):
        check_precision(torch.device("cuda:1"), "bf16")


def test_the_benchmark_of_precisions_goes_on_after_one_that_a_gpu_lacks(monkeypatch, capsys):
    simulate_gpus(monkeypatch, 1)
    monkeypatch.setattr("sys.argv", ["precision.py", "--runner", "run_winclip"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(precision_benchmark, "describe_device", lambda device: "an old GPU")
    monkeypatch.setattr(precision_benchmark, "run", lambda settings, folder: settings.precision)
    monkeypatch.setattr(precision_benchmark, "compare", lambda *results: str(results))
    precision_benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    results = [line.split(": ")[:2] for line in lines if line[:4] in (*DTYPES, "int8")]
    names = [name for name, _ in results]
    assert names == ["tf32 left out", "bf16 left out", "fp16", "int8 left out"]
    assert results[2][1] == "('fp32', 'fp16', False)"


# Exact products.

USERS_TF32 = {
    # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 has the same effect as the first one.
    "older API": lambda: torch.set_float32_matmul_precision("high"),
    "of all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "of products": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "of cuDNN": lambda: setattr(torch.backends.cudnn, "fp32_precision", "tf32"),
}


@pytest.fixture(params=USERS_TF32)
def tf32_allowed(request):
    """Allow TF32 as a user might; torch's settings are reset after the test."""
    if request.param != "older API" and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this version of torch has the older API only")
    USERS_TF32[request.param]()
    yield
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
    set_matmul_precision(tf32=False)


def tf32_settings() -> set[bool]:
    """Return the values of all of torch's settings that may allow TF32."""
    settings = {torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32}
    if hasattr(torch.backends, "fp32_precision"):
        modules = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
        settings |= {module.fp32_precision == "tf32" for module in modules}
    return settings | {torch.get_float32_matmul_precision() != "highest"}


def test_fp32_is_exact_where_the_environment_allows_tf32(config, tf32_allowed):
    clip = load_clip(config, "random")
    to_device(clip.model, torch.device("cpu"), "fp32")
    assert tf32_settings() == {False}
    with matmul_precision(tf32=True):
        assert tf32_settings() == {True}
    assert tf32_settings() == {False}


def test_an_encoder_alone_is_exact_where_the_environment_allows_tf32(config, tf32_allowed):
    visual = load_clip(config, "random").model.visual
    settings = []
    visual.conv1.register_forward_hook(lambda *_: settings.append(tf32_settings()))
    WindowedEncoder(visual).encode_images(torch.zeros(1, 3, 240, 240))
    assert settings == [{False}]


def test_cudnn_attention_is_not_used_for_images(config):
    visual = load_clip(config, "random").model.visual
    allowed = []
    visual.conv1.register_forward_hook(
        lambda *_: allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        WindowedEncoder(visual).encode_images(torch.zeros(1, 3, 240, 240))
        assert allowed == [False]
        with pytest.raises(ValueError), without_cudnn_attention():
            raise ValueError
        assert torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


# On a real GPU. Bounds are the largest difference of a unit vector's component; see
# docs/performance.md for what was measured.
BOUNDS = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 2e-3, "bf16": 2e-2}


def unit_vectors(features: Features) -> list[torch.Tensor]:
    vectors = (features.image, *features.windows, features.patches)
    return [F.normalize(vector, dim=-1).cpu() for vector in vectors]


@gpu
@pytest.mark.parametrize("precision", DTYPES)
def test_a_gpu_gives_the_embeddings_of_the_cpu(config, precision):
    device = resolve_device("cuda")
    try:
        check_precision(device, precision)
    except InputError as error:
        pytest.skip(str(error))
    pixels = torch.randn(3, 3, 240, 240, generator=torch.Generator().manual_seed(1))
    expected = WindowedEncoder(load_clip(config, "random").model.visual).encode_images(pixels)
    clip = load_clip(config, "random")
    to_device(clip.model, device, precision)
    tf32 = precision == "tf32"
    encoders = {
        by_rows: WindowedEncoder(clip.model.visual, tf32=tf32, by_rows=by_rows)
        for by_rows in (None, False)
    }
    for encoder in encoders.values():
        actual = encoder.encode_images(pixels)
        for pair in zip(unit_vectors(actual), unit_vectors(expected), strict=True):
            torch.testing.assert_close(*pair, atol=BOUNDS[precision], rtol=0)


@gpu
def test_a_gpu_gives_exact_embeddings_where_the_environment_allows_tf32(config, tf32_allowed):
    test_a_gpu_gives_the_embeddings_of_the_cpu(config, "fp32")


@gpu
def test_a_gpu_gives_the_text_and_the_scores_of_the_cpu(config):
    pixels = torch.randn(3, 3, 240, 240, generator=torch.Generator().manual_seed(1))
    results = []  # of the CPU, then of the GPU
    for name in ("cpu", "cuda"):
        device = resolve_device(name)
        clip = load_clip(config, "random")
        to_device(clip.model, device, "fp32")
        states = encode_states(clip.model, clip.tokenizer, *PROMPTS)
        text = TextBank.from_prompts(*states, temperature=0.07, normalise_prompts=True)
        encoder = WindowedEncoder(clip.model.visual)
        features, references = encoder.encode_images(pixels), encoder.encode_images(pixels[1:])
        visual = VisualBank.from_features(references)
        sets = [None, torch.arange(1, device=device), torch.arange(2, device=device)]
        scores = winclip(features, text, visual, sets)
        rows = torch.arange(2, device=device)
        tiles = ReferenceTiles(visual, scores[1][0, 1:], rows, (2, 3))
        alone = [lazy_maxima(tiles), *leave_one_out_distances(tiles, range(2))]
        results.append([tensor.cpu() for tensor in (text.states, *scores, *alone)])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)  # as below

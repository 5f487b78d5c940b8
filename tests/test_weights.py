import json
import pickle
from contextlib import nullcontext
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from models.clip.device import check_precision, resolve_device, to_device
from models.clip.encoder import WindowedEncoder
from models.clip.text import encode_text
from models.clip.weights import KNOWN_WEIGHTS, load_clip
from tests.clips import small_clip, write_config
from utils.errors import InputError
from utils.files import sha256_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return small_clip(tmp_path_factory.mktemp("source"))


@pytest.fixture
def config(tmp_path):
    return str(write_config(tmp_path, "small-loaded", 240, 16))


def shifted_state(source) -> dict:
    """Return the state of `source`, changed so that it differs from its random weights."""
    return {name: value + 1 for name, value in source.model.state_dict().items()}


def save(state: dict, path) -> None:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, str(path))
    else:
        torch.save(state, path)


@pytest.mark.parametrize(
    "name", ["w.pt", "w.bin", "w.safetensors", "mit Leerzeichen ü.safetensors"]
)
def test_a_local_weight_file_is_loaded_and_identified_by_its_checksum(
    source, config, tmp_path, name
):
    path = tmp_path / name
    save(shifted_state(source), path)
    loaded = load_clip(config, str(path))
    for key, value in source.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value + 1), key
    assert loaded.weights.sha256 == sha256_of(path)
    assert "unknown" in loaded.weights.description
    assert not loaded.weights.random


def test_a_training_checkpoint_with_a_state_dict_inside_is_loaded(source, config, tmp_path):
    state = {f"module.{name}": value for name, value in shifted_state(source).items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "epoch.pt")
    loaded = load_clip(config, str(tmp_path / "epoch.pt")).model.state_dict()
    assert torch.equal(loaded["visual.proj"], state["module.visual.proj"])


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_folder_of_a_model_repository_is_loaded(source, config, tmp_path, name):
    folder = tmp_path / "repository"
    folder.mkdir()
    save(shifted_state(source), folder / name)
    loaded = load_clip(config, str(folder))
    assert loaded.weights.sha256 == sha256_of(folder / name)


def test_the_papers_weights_are_known_by_their_checksums():
    assert all(len(digest) == 64 for digest in KNOWN_WEIGHTS)
    epochs = [text.rsplit(maxsplit=1)[1] for text in KNOWN_WEIGHTS.values() if "LAION" in text]
    assert sorted(epochs) == ["31", "31", "31", "32"]


def test_a_known_checksum_is_described_in_words(source, config, tmp_path, monkeypatch):
    save(shifted_state(source), tmp_path / "w.pt")
    monkeypatch.setitem(KNOWN_WEIGHTS, sha256_of(tmp_path / "w.pt"), "LAION-400M, epoch 31")
    assert load_clip(config, str(tmp_path / "w.pt")).weights.description.startswith("LAION-400M")


def test_random_weights_are_seeded_and_leave_the_callers_random_state_alone(config):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = load_clip(config, "random"), load_clip(config, "random")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.model.visual.proj, second.model.visual.proj)
    assert first.weights.random
    assert "random" in first.weights.description


class Hostile:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_executed(config, tmp_path, how):
    trap, path = tmp_path / "executed", tmp_path / "hostile.pt"
    if how == "torch":
        torch.save({"state_dict": Hostile(trap)}, path)
    else:
        path.write_bytes(pickle.dumps(Hostile(trap)))
    with pytest.raises(InputError, match=r"hostile\.pt"):
        load_clip(config, str(path))
    assert not trap.exists()


def test_weights_in_torchs_older_formats_are_refused(source, config, tmp_path):
    # torch < 2.6 may execute their code even with `weights_only`.
    state, path = source.model.state_dict(), tmp_path / "older.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="not a zip archive"):
        load_clip(config, str(path))


def test_damaged_and_foreign_weight_files_are_one_sentence(source, config, tmp_path):
    state = shifted_state(source)
    save(state, tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.bin").write_bytes(b"")
    save(state, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.safetensors").write_bytes(b"this is a page that says 404")
    other = {name: value for name, value in state.items() if "resblocks.2" not in name}
    save(other, tmp_path / "other.safetensors")
    save({"a": torch.ones(2)}, tmp_path / "a.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({}, tmp_path / "nothing.pt")
    for name in (
        *("cut.pt", "empty.bin", "cut.safetensors", "text.safetensors", "other.safetensors"),
        *("a.pt", "list.pt", "nothing.pt"),
    ):
        with pytest.raises(InputError) as caught:
            load_clip(config, str(tmp_path / name))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unknown_source_of_weights_names_the_tags_and_the_papers_weights(config, tmp_path):
    (tmp_path / "weights.txt").write_text("")
    (tmp_path / "folder").mkdir()
    for pretrained, expected in [
        ("laion400m_e99", "its tags: laion400m_e31, laion400m_e32"),
        ("nowhere.pt", "is not a file, a folder or a tag"),
    ]:
        with pytest.raises(InputError) as caught:
            load_clip("ViT-B-16-plus-240", pretrained)
        assert expected in str(caught.value)
        assert "f65b63da" in str(caught.value)
    with pytest.raises(InputError, match=r"has no weights of .*; add --pretrained with its weight"):
        load_clip(config, "laion400m_e31")
    with pytest.raises(InputError, match=r"has none of open_clip_model\.safetensors"):
        load_clip(config, str(tmp_path / "folder"))
    with pytest.raises(InputError, match=r"does not end in one of \.pt"):
        load_clip(config, str(tmp_path / "weights.txt"))


def test_a_failed_download_names_another_source(monkeypatch):
    def no_network(cfg):
        raise ConnectionError("no network\nsecond line")

    monkeypatch.setattr(open_clip, "download_pretrained", no_network)
    with pytest.raises(InputError) as caught:
        load_clip("ViT-B-16-plus-240", "laion400m_e31")
    sentence = str(caught.value)
    assert "the download failed (ConnectionError: no network second line)" in sentence
    assert "HF_ENDPOINT" in sentence
    assert "timm/vit_base_patch16_plus_clip_240.laion400m_e31" in sentence
    assert "\n" not in sentence


def test_a_tag_is_downloaded_by_open_clip(source, tmp_path, monkeypatch):
    path = tmp_path / "fetched.safetensors"
    model = open_clip.create_model("ViT-B-32")
    save({name: value * 0 for name, value in model.state_dict().items()}, path)
    downloads = []

    def fetch(cfg):
        downloads.append(cfg)
        return str(path)

    monkeypatch.setattr(open_clip, "download_pretrained", fetch)
    loaded = load_clip("ViT-B-32", "laion400m_e32")
    assert downloads == [open_clip.get_pretrained_cfg("ViT-B-32", "laion400m_e32")]
    assert loaded.model.visual.proj.abs().max() == 0
    assert loaded.mean == open_clip.OPENAI_DATASET_MEAN


def test_openais_weights_come_from_the_hub(source, config, tmp_path, monkeypatch):
    # open_clip 4 has no other source; earlier versions also know OpenAI's TorchScript files.
    path, fetched = tmp_path / "open_clip_model.safetensors", []
    save(shifted_state(source), path)
    cfg = open_clip.get_pretrained_cfg("ViT-B-32", "openai")

    def fetch(model_id, **_):
        fetched.append(model_id)
        return str(path)

    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: cfg)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_hf", fetch)
    loaded = load_clip(config, "openai")
    assert fetched == ["timm/vit_base_patch32_clip_224.openai"]
    assert loaded.quick_gelu and loaded.mean == open_clip.OPENAI_DATASET_MEAN
    assert torch.equal(loaded.model.visual.proj, source.model.visual.proj + 1)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_file_is_one_sentence(config, tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(InputError, match=r"ViT-B-32\.pt does not load .*use a \.safetensors file"):
        load_clip(config, str(tmp_path / "ViT-B-32.pt"))


def test_the_hub_config_beside_weights_defines_the_normalisation(source, config, tmp_path):
    save(source.model.state_dict(), tmp_path / "open_clip_model.safetensors")
    assert load_clip(config, str(tmp_path)).mean == open_clip.OPENAI_DATASET_MEAN
    hub_config = {
        "model_cfg": {"quick_gelu": True},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [1] * 3},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(hub_config))
    for pretrained in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        loaded = load_clip(config, str(pretrained))
        assert (loaded.mean, loaded.std, loaded.quick_gelu) == ((0.5,) * 3, (1.0,) * 3, True)
        assert type(loaded.model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


@pytest.mark.parametrize(
    "hub_config", ["{", "[]", '{"preprocess_cfg": {"mean": [1]}}', '{"model_cfg": 3}']
)
def test_a_damaged_config_beside_the_weights_is_one_sentence(source, config, tmp_path, hub_config):
    save(source.model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(hub_config)
    with pytest.raises(
        InputError, match=r"open_clip_config\.json .*, which defines the normalisation"
    ):
        load_clip(config, str(tmp_path))


def test_a_quickgelu_model_has_quick_gelu_with_any_weights(source):
    assert load_clip("ViT-B-32-quickgelu", "random").quick_gelu
    assert not source.quick_gelu


def test_unknown_models_and_configs_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match='no model "ViT-X"'):
        load_clip("ViT-X", "random")
    with pytest.raises(InputError, match=r"config .*gone\.json"):
        load_clip(str(tmp_path / "gone.json"), "random")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match=r"broken\.json"):
        load_clip(str(tmp_path / "broken.json"), "random")
    (tmp_path / "foreign.json").write_text("{}")
    with pytest.raises(InputError, match=r"foreign"):
        load_clip(str(tmp_path / "foreign.json"), "random")


def test_a_model_that_needs_a_missing_package_is_one_sentence(monkeypatch, config):
    def needs_more(name):
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", needs_more)
    with pytest.raises(InputError, match=r"cannot build .*No module named 'transformers'"):
        load_clip(config, "random")


def test_a_config_with_an_impossible_tower_is_one_sentence(tmp_path):
    bad = write_config(tmp_path, "small-impossible", 240, 16, width=-4)
    with pytest.raises(InputError, match="cannot build"):
        load_clip(str(bad), "random")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", "cuda:x"])
def test_an_unknown_or_missing_device_is_one_sentence(name):
    with pytest.raises(InputError, match="DEVICE"):
        resolve_device(name)


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
@pytest.mark.parametrize(
    ("flag", "allowed"),
    [("avx2", '"fp32" or "bf16"'), ("avx512_vnni", '"fp32", "bf16" or "int8"')],
)
def test_a_cpu_refuses_the_precisions_of_gpus_and_names_its_own(
    monkeypatch, precision, flag, allowed
):
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags\t\t: fpu {flag}\n")
    message = f'"{precision}" needs a CUDA device; on this CPU use {allowed}'
    with pytest.raises(InputError, match=rf"{message}$"):
        check_precision(CPU, precision)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize(("capability", "allowed"), [((7, 5), False), ((8, 0), True)])
def test_tf32_and_bf16_need_a_gpu_that_has_them(monkeypatch, precision, capability, allowed):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    refused = pytest.raises(InputError, match=f"this GPU has no {precision}")
    with nullcontext() if allowed else refused:
        check_precision(torch.device("cuda:1"), precision)


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_applies_to_the_products_of_images_only(tmp_path, tf32):
    clip = load_clip(str(write_config(tmp_path, "small", 32, 8)), "random")
    to_device(clip.model, CPU, "tf32" if tf32 else "fp32")
    flags = []

    def record(*_) -> None:
        flags.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))

    for module in (clip.model.visual.conv1, clip.model.token_embedding):
        module.register_forward_hook(record)
    WindowedEncoder(clip.model.visual, tf32=tf32).encode_images(torch.zeros(1, 3, 32, 32))
    encode_text(clip.model, clip.tokenizer, ["a"])
    record()
    assert flags == [(tf32, tf32), (False, False), (False, False)]


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_cpu_with_bf16_instructions_takes_bf16_without_a_warning(monkeypatch, capability):
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags\t\t: fpu avx2 {capability}\n")
    assert check_precision(CPU, "bf16") == ""


def test_a_cpu_without_bf16_instructions_takes_bf16_with_a_warning(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: "flags\t\t: fpu avx2 avx512f\n")
    assert 'PRECISION = "bf16": this CPU reports no bf16 instructions' in check_precision(
        CPU, "bf16"
    )
    assert check_precision(CPU, "fp32") == ""


@pytest.mark.parametrize("supported", [True, False, None])
def test_torch_reports_bf16_instructions_where_there_is_no_cpuinfo(monkeypatch, supported):
    def no_file(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", no_file)
    monkeypatch.delattr("torch.cpu._is_avx512_bf16_supported", raising=False)  # as in older torch
    if supported is not None:
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False
        )
    assert bool(check_precision(CPU, "bf16")) != bool(supported)

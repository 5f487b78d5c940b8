"""Kept features: what a store gives back, and which files it refuses."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.clip.encoder import WindowedEncoder
from models.clip.features import AllFeatures
from models.clip.weights import build_clip, locate_clip
from tests.clips import small_clip
from utils.distributed.context import DistributedContext
from utils.errors import InputError
from utils.experiment.custom import CustomSettings
from utils.experiment.settings import Settings
from utils.features import space, store
from utils.features.store import FeatureStore
from utils.features.stores import explain_no_features
from utils.files import sha256_of, write_text
from utils.results.scores import Scores, load_scores
from utils.run import session
from utils.run.benchmark import run
from utils.run.custom import plan_custom

ENCODING = {"model": "small", "precision": "fp32", "scales": [2, 3], "features_precision": "fp32"}
KINDS = ("post_ln", "pre_ln", "penultimate")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> WindowedEncoder:
    """Return a small encoder whose ln_post has weights of its own."""
    visual = small_clip(tmp_path_factory.mktemp("clip"), "ViT-B-32").model.visual
    with torch.no_grad():
        visual.ln_post.weight.mul_(torch.linspace(0.5, 2, 64))
    return WindowedEncoder(visual)


@pytest.fixture(scope="module")
def features(encoder) -> AllFeatures:
    """Return the features of three tiles."""
    pixels = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return encoder.encode_all(pixels)


@pytest.fixture
def image(tmp_path) -> Path:
    """Return a file that stands for an image."""
    path = tmp_path / "a.png"
    path.write_bytes(b"an image")
    return path


def create(folder: Path, encoder: WindowedEncoder, precision="fp32", resize="tile") -> FeatureStore:
    encoding = ENCODING | {"features_precision": precision}
    store = FeatureStore(folder / "features", encoding, resize)
    store.create(encoder.visual.ln_post)
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_one_forward_gives_every_kind_of_patch_tokens(encoder, kind):
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    alone = WindowedEncoder(encoder.visual, patch_tokens=kind).encode_images(pixels)
    selected = encoder.encode_all(pixels).select(kind)
    assert torch.equal(selected.patches, alone.patches)
    assert torch.equal(selected.image, alone.image)
    assert all(map(torch.equal, selected.windows, alone.windows))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_store_gives_back_what_it_was_given(encoder, features, image, tmp_path, precision):
    store = create(tmp_path, encoder, precision)
    rounded = store.round(features)
    store.write("a.png", sha256_of(image), (10, 20), rounded)
    again = FeatureStore(store.folder, store.encoding, "tile").read("a.png")
    for kind in KINDS:
        expected, actual = rounded.select(kind), again.select(kind)
        assert torch.equal(actual.patches, expected.patches)
        assert torch.equal(actual.image, expected.image)
        assert all(map(torch.equal, actual.windows, expected.windows))
        exact = features.select(kind)
        assert torch.equal(actual.patches, exact.patches) == (precision == "fp32")
        torch.testing.assert_close(actual.patches, exact.patches, atol=1e-2, rtol=1e-2)
    assert (again.grid, again.scales) == ((7, 7), (2, 3))


def test_an_overflow_is_refused(encoder, features, tmp_path):
    large = replace(features, pre_ln=features.pre_ln * 1e6)
    create(tmp_path, encoder, "fp32").round(large)
    with pytest.raises(InputError, match="--features-precision fp32"):
        create(tmp_path / "half", encoder, "fp16").round(large)


@pytest.mark.parametrize(("size", "expected"), [((20, 20), True), ((10, 20), False)])
def test_only_a_square_image_has_the_same_features_tiled_and_squashed(
    encoder, features, image, tmp_path, size, expected
):
    create(tmp_path, encoder, resize="squash").write("a.png", sha256_of(image), size, features)
    assert create(tmp_path, encoder, resize="tile").has("a.png", image) == expected


def test_features_of_another_image_are_refused(encoder, features, image, tmp_path):
    store = create(tmp_path, encoder)
    assert not store.has("a.png", image)
    store.write("a.png", sha256_of(image), (10, 20), features)
    assert store.has("a.png", image)
    image.write_bytes(b"another image")
    with pytest.raises(InputError, match=r"a\.png\.safetensors .*its sha256 differs.*delete it"):
        store.has("a.png", image)


def test_features_of_another_encoding_are_refused(encoder, features, image, tmp_path):
    store = create(tmp_path, encoder)
    store.write("a.png", sha256_of(image), (10, 20), features)
    changed = dict(store.encoding, precision="bf16", scales=[2])
    with pytest.raises(InputError) as caught:
        FeatureStore(store.folder, changed, "tile").check_encoding()
    assert str(caught.value).startswith("--precision was fp32, now bf16; --scales was 2 3, now")
    assert "undo the change" in str(caught.value)
    assert "delete" not in str(caught.value)  # encoding again may take hours
    with pytest.raises(
        InputError, match="its encoding differs"
    ):  # a file copied from another store
        replace(store, encoding=changed).has("a.png", image)


@pytest.mark.parametrize("length", [0, 4, 500, -1])
def test_a_truncated_file_is_named(encoder, features, image, tmp_path, length):
    store = create(tmp_path, encoder)
    store.write("a.png", sha256_of(image), (10, 20), features)
    file = store.find("a.png")
    file.write_bytes(file.read_bytes()[:length])
    for use in (lambda: store.has("a.png", image), lambda: store.read("a.png")):
        with pytest.raises(InputError, match=r"a\.png\.safetensors is missing or damaged.*delete"):
            use()


@pytest.mark.parametrize("name", ["/else/where.png", "../up.png", "d/" + "x" * 247 + ".png"])
def test_paths_that_cannot_be_those_of_files_in_the_store_have_checksums(
    encoder, features, image, tmp_path, name
):
    store = create(tmp_path, encoder)
    store.write(name, sha256_of(image), (10, 20), features)
    assert store.has(name, image)
    assert store.find(name).parent == store.folder / "tile"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence(encoder, features, image, tmp_path, monkeypatch, code):
    store = create(tmp_path, encoder)
    store.write("b.png", sha256_of(image), (10, 20), features)

    def fail(*_: object):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(InputError, match=r"cannot write .*a\.png.*free some space.*work is kept"):
        store.write("a.png", sha256_of(image), (10, 20), features)
    assert [path.name for path in (store.folder / "tile").iterdir()] == ["b.png.safetensors"]


@pytest.fixture
def bottle(mvtec_settings, tmp_path) -> Settings:
    """Return the settings of a run over one category of the session's benchmark."""
    changes = {"categories": ("bottle",), "limit": 1, "shots": (0, 1), "seeds": (0,)}
    changes |= {"heatmaps": "none", "result_dir": str(tmp_path / "r")}
    return replace(mvtec_settings, **changes)


def scores_of(settings: Settings) -> Scores:
    return load_scores(settings.result_folder / "scores" / "bottle.npz")


def assert_equal_scores(first: Scores, second: Scores) -> None:
    np.testing.assert_array_equal(first.image_scores, second.image_scores)
    np.testing.assert_array_equal(first.maps, second.maps)


def test_fp32_features_give_the_scores_of_a_plain_run_without_the_vision_tower(
    bottle, tmp_path, monkeypatch
):
    run(replace(bottle, result_dir=str(tmp_path / "plain")))
    plain = scores_of(replace(bottle, result_dir=str(tmp_path / "plain")))
    keep_run = replace(bottle, features="keep", features_precision="fp32")
    run(keep_run)
    assert_equal_scores(scores_of(keep_run), plain)
    models = []
    monkeypatch.setattr(
        session, "build_clip", lambda *given: models.append(build_clip(*given)) or models[-1]
    )
    used = replace(bottle, features=keep_run.result_dir, result_dir=str(tmp_path / "used"))
    run(used)
    assert_equal_scores(scores_of(used), plain)
    (clip,) = models
    assert clip.model.visual is None
    assert not [name for name, _ in clip.model.named_parameters() if name.startswith("visual")]


def test_a_resumed_run_and_one_that_lacks_features_give_the_same_bits(bottle, tmp_path, caplog):
    keep_run = replace(bottle, features="keep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "sha256_of", None)  # checksums come from the decoding processes
        run(keep_run)
    expected, folder = scores_of(keep_run), keep_run.result_folder
    lost = sorted(folder.rglob("features/**/test/**/*.safetensors"))[::2]
    for path in [folder / "done" / "bottle.json", *lost]:
        path.unlink()
    used = replace(bottle, features=keep_run.result_dir, result_dir=str(tmp_path / "used"))
    run(used)
    assert_equal_scores(scores_of(used), expected)
    assert not (used.result_folder / "features").exists()
    run(keep_run)
    assert_equal_scores(scores_of(keep_run), expected)
    assert all(path.exists() for path in lost)
    record = json.loads((folder / "settings.json").read_text())
    assert record["fingerprint"]["features_precision"] == "fp16"
    assert any("FEATURES KEPT IN FP16" in note for note in record["notes"])


def test_features_in_the_default_folder_are_used_if_they_fit(
    bottle, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.setattr(Settings, "default_features", lambda self: [tmp_path / "r/features"])
    keep_run = replace(bottle, features="keep")
    run(keep_run)
    other = replace(bottle, result_dir=str(tmp_path / "other"))
    run(other)
    assert_equal_scores(scores_of(other), scores_of(keep_run))
    foreign = replace(bottle, result_dir=str(tmp_path / "foreign"), scales=(2,), shots=(0,))
    run(foreign)
    log = (foreign.result_folder / "run.log").read_text()
    assert "are not used: --scales was 2 3, now 2" in log
    with pytest.raises(InputError, match=r"--scales was 2 3, now 2: choose another"):
        run(replace(foreign, result_dir=keep_run.result_dir))


@pytest.fixture
def defaults(monkeypatch) -> list[Path]:
    """Return the folders that stand for those of the default result folder; empty at first."""
    folders = []
    monkeypatch.setattr(Settings, "default_features", lambda self: folders)
    return folders


def log_of(settings: Settings) -> str:
    return (settings.result_folder / "run.log").read_text(encoding="utf-8")


def record_of(settings: Settings) -> dict:
    return json.loads((settings.result_folder / "settings.json").read_text(encoding="utf-8"))


def interrupt(settings: Settings) -> None:
    """Undo the only category of a finished run."""
    (settings.result_folder / "done" / "bottle.json").unlink()


def test_a_run_goes_on_as_it_began(bottle, defaults, tmp_path):
    """Kept features in fp16 are not used by a run that began without; and the reverse."""
    exact = replace(bottle, result_dir=str(tmp_path / "exact"))
    run(exact)
    expected = scores_of(exact)
    assert "features_precision" not in record_of(exact)["fingerprint"]  # as in earlier versions
    keep_run = replace(bottle, features="keep")
    run(keep_run)
    defaults.append(keep_run.result_folder / "features")
    interrupt(exact)
    run(exact)
    assert "are not used: --features-precision was fp16, now fp32" in log_of(exact)
    assert_equal_scores(scores_of(exact), expected)
    with pytest.raises(
        InputError, match=r"are those of fp32 features, .*--features-precision fp32"
    ):
        run(replace(exact, features="keep"))
    rounded = replace(bottle, result_dir=str(tmp_path / "rounded"))
    run(rounded)
    defaults.clear()
    interrupt(rounded)
    run(rounded)
    assert_equal_scores(scores_of(rounded), scores_of(keep_run))
    with pytest.raises(InputError, match=r"are those of fp16 features, .*add --features auto"):
        run(replace(rounded, features="off"))


def test_off_neither_reads_nor_writes(bottle, defaults, tmp_path):
    keep_run = replace(bottle, features="keep", features_precision="fp32")
    run(keep_run)
    defaults.append(keep_run.result_folder / "features")
    off = replace(bottle, features="off", result_dir=str(tmp_path / "off"))
    run(off)
    assert "features" not in log_of(off)
    assert not (off.result_folder / "features").exists()


def test_unusable_files_of_the_default_folder_are_passed_over(bottle, defaults, tmp_path):
    keep_run = replace(bottle, features="keep", features_precision="fp32")
    run(keep_run)
    folder = keep_run.result_folder / "features"
    defaults.append(folder)
    first, second, *_ = sorted((folder / "tile").rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:500])
    second.write_bytes((folder / "ln_post.safetensors").read_bytes())
    auto = replace(bottle, result_dir=str(tmp_path / "auto"))
    run(auto)
    assert "2 files of features are not used; the first: " in log_of(auto)
    assert_equal_scores(scores_of(auto), scores_of(keep_run))
    for name in ("ln_post.safetensors", "features.json"):
        (folder / name).write_bytes(b"half")
        interrupt(auto)
        run(auto)
        assert f"the features in {folder} are not used: {folder / name} is " in log_of(auto)
    with pytest.raises(InputError, match=r"features\.json is damaged"):
        run(replace(auto, features=keep_run.result_dir))


@pytest.mark.parametrize("linked", [True, False])
def test_keep_copies_the_features_of_the_default_folder(
    bottle, defaults, tmp_path, monkeypatch, linked
):
    keep_run = replace(bottle, features="keep")
    run(keep_run)
    folder = keep_run.result_folder / "features"
    defaults.append(folder)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.*") if path.is_file())
    (folder / files[-1]).unlink()
    if not linked:
        monkeypatch.setattr(os, "link", lambda *_: Path("/nowhere").stat())
    second = replace(keep_run, result_dir=str(tmp_path / "second"))
    copies = second.result_folder / "features"
    ready = []  # at the barrier: other processes write after it
    monkeypatch.setattr(
        DistributedContext,
        "barrier",
        lambda _: ready.append([path.name for path in copies.rglob("*.*") if path.is_file()]),
    )
    run(second)
    assert sorted(ready[-1]) == ["features.json", "ln_post.safetensors"]
    assert sorted(p.relative_to(copies) for p in copies.rglob("*.*") if p.is_file()) == files
    assert (copies / files[-2]).samefile(folder / files[-2]) == linked
    shutil.rmtree(folder)
    third = replace(bottle, features=second.result_dir, result_dir=str(tmp_path / "third"))
    run(third)
    assert_equal_scores(scores_of(third), scores_of(keep_run))


def test_the_size_of_the_features_is_announced_and_a_full_disk_refused(bottle, monkeypatch):
    encode = pytest.fail
    monkeypatch.setattr(WindowedEncoder, "encode_all", encode)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    with pytest.raises(InputError, match=r"features of \d+ images take about .* has only 0\.1 MB"):
        run(replace(bottle, features="keep"))


def test_a_folder_without_features_is_refused(bottle, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (("nowhere", "there is no folder"), ("empty", "the run in")):
        with pytest.raises(InputError, match=rf"{message} {tmp_path / name}.*--features keep"):
            run(replace(bottle, features=str(tmp_path / name)))
    write_text(tmp_path / "other/features.json", "")
    assert explain_no_features(tmp_path / "other").endswith("are those of other images")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_the_text_tower_alone_has_the_weights_of_the_file(tmp_path, name):
    clip = small_clip(tmp_path, "ViT-B-32")
    state = {key: value + 1 for key, value in clip.model.state_dict().items()}
    (save_file if name.endswith("s") else torch.save)(state, str(tmp_path / name))
    source = locate_clip(str(tmp_path / "small-ViT-B-32.json"), str(tmp_path / name))
    text = build_clip(source, text_only=True)
    assert text.model.visual is None
    for key, value in text.model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert text.image_size == 224
    del state["text_projection"]
    (save_file if name.endswith("s") else torch.save)(state, str(tmp_path / name))
    with pytest.raises(InputError, match="text_projection"):
        build_clip(source, text_only=True)


def test_kept_features_serve_another_class_name(bottle, mvtec_settings, tmp_path):
    first = CustomSettings(
        images=str(Path(mvtec_settings.data_root) / "bottle/test/good"),
        class_name="bottle",
        model=bottle.model,
        pretrained=bottle.pretrained,
        features="keep",
        heatmaps="none",
        num_workers=0,
        quiet=True,
        result_dir=str(tmp_path / "bottle"),
    )
    run(first, plan_custom(first))
    second = replace(
        first, class_name="jar", features=first.result_dir, result_dir=str(tmp_path / "jar")
    )
    run(second, plan_custom(second))
    assert "features of 3 of 3 images are read from" in log_of(second)
    assert "0 images must be encoded" in log_of(second)

"""Runs without maps, and runs of a method that is not WinCLIP."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datasets.images import normalise
from datasets.tiles import cut_tiles
from models.clip.encoder import WindowedEncoder
from models.clip.weights import RANDOM, Weights, load_clip
from models.winclip import TextBank, VisualBank
from tests.layouts import make_mvtec
from utils.errors import InputError
from utils.evaluation.metrics import IMAGE_METRICS
from utils.experiment.custom import CustomSettings
from utils.experiment.settings import Settings
from utils.results.scores import load_scores
from utils.run import session
from utils.run.benchmark import run
from utils.run.custom import plan_custom


@pytest.fixture(scope="module")
def without_maps(mvtec_settings, tmp_path_factory) -> Settings:
    """Return the settings of a finished run without maps over one category."""
    folder = tmp_path_factory.mktemp("without")
    changes = {"maps": False, "categories": ("bottle",), "result_dir": str(folder)}
    settings = replace(mvtec_settings, **changes).resolve()
    run(settings)
    return settings


def test_zero_shot_scores_do_not_depend_on_maps(without_maps, mvtec_result):
    full = load_scores(mvtec_result / "scores/bottle.npz")
    scores = load_scores(without_maps.result_folder / "scores/bottle.npz")
    assert scores.image.tolist() == full.image.tolist()
    np.testing.assert_allclose(scores.image_scores[0], full.image_scores[0], rtol=0, atol=1e-6)
    assert np.abs(scores.image_scores[1:] - full.image_scores[1:]).min() > 1e-4


def test_few_shot_scores_without_maps_are_those_of_patch_tokens(without_maps):
    folder, root = without_maps.result_folder, Path(without_maps.data_root)
    shots = pd.read_csv(folder / "shots.csv").query("shots == 2 and seed == 0")
    scores = load_scores(folder / "scores/bottle.npz")
    clip = load_clip(without_maps.model, RANDOM)
    encoder = WindowedEncoder(clip.model.visual)
    statistics = torch.tensor([clip.mean, clip.std])[:, :, None, None]

    def patches(image: str) -> torch.Tensor:
        tiles, _ = cut_tiles(Image.open(root / image), 240, "tile")
        return F.normalize(
            encoder.encode_images(normalise(torch.from_numpy(tiles), *statistics)).patches[0],
            dim=-1,
        )

    bank = torch.cat([patches(image) for image in shots["image"]])
    nearest = (patches(scores.image[0]) @ bank.T).amax(dim=-1)
    expected = (scores.image_scores[0, 0] + float((1 - nearest).max()) / 2) / 2
    index = scores.run_names().index("2-shot seed 0, patch tokens")
    assert scores.image_scores[index, 0] == pytest.approx(expected, abs=1e-6)


def test_a_run_without_maps_has_image_metrics_and_a_note_alone(without_maps):
    folder = without_maps.result_folder
    assert set(pd.read_csv(folder / "metrics.csv")["metric"]) == set(IMAGE_METRICS)
    record = json.loads((folder / "settings.json").read_text())
    assert any("PATCH TOKENS ALONE" in note for note in record["notes"])
    assert not [name for name in ("heatmaps", "defects.json") if (folder / name).exists()]


def test_results_with_and_without_maps_are_never_mixed(without_maps, mvtec_result, tmp_path):
    copy = shutil.copytree(mvtec_result, tmp_path / "r")
    with pytest.raises(InputError, match="--maps was True, now False: choose another"):
        run(replace(without_maps, result_dir=str(copy)))


def test_a_run_without_maps_reads_the_features_of_one_with_maps(
    without_maps, tmp_path, monkeypatch
):
    full = replace(without_maps, maps=True, scales=(2, 3), limit=1, shots=(0, 1), seeds=(0,))
    full = replace(full, features="keep", features_precision="fp32", heatmaps="none")
    run(replace(full, result_dir=str(tmp_path / "full")))
    given = {"maps": False, "scales": (), "features": str(tmp_path / "full")}
    used = replace(full, **given, features_precision="fp16", result_dir=str(tmp_path / "used"))
    with monkeypatch.context() as patch:
        patch.setattr(WindowedEncoder, "encode_all", None)  # would fail if it were called
        run(used)
    scores = load_scores(tmp_path / "used" / "scores/bottle.npz")
    expected = load_scores(without_maps.result_folder / "scores/bottle.npz")
    columns = [expected.image.tolist().index(image) for image in scores.image]
    np.testing.assert_allclose(
        scores.image_scores, expected.image_scores[:2, columns], rtol=0, atol=1e-6
    )
    next((tmp_path / "full/features").rglob("test/good/*.safetensors")).unlink()  # is encoded again
    some = replace(used, shots=(0,), result_dir=str(tmp_path / "some"))
    run(some)
    again = load_scores(tmp_path / "some" / "scores/bottle.npz")
    np.testing.assert_allclose(again.image_scores, scores.image_scores[:1], rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Means:
    """The mean values of B images."""

    values: torch.Tensor  # (B, 1)

    @staticmethod
    def concatenate(batches: "Sequence[Means]") -> "Means":
        return Means(torch.cat([batch.values for batch in batches]))


class NearestMean:
    """A method without maps: the distance to the reference image with the nearest mean."""

    device, image_size = torch.device("cpu"), 32
    has_maps, map_blur = False, 0.0
    bank_leave_one_out = False
    checkpoint = Weights(RANDOM, "", "nothing learned")
    notes = ("A NOTE OF THE METHOD",)

    def encode_images(self, pixels: torch.Tensor) -> Means:
        return Means(pixels.mean(dim=(2, 3))[:, :1])

    def text_bank(self, category: str) -> TextBank:
        return TextBank(torch.eye(2), 1.0)

    def visual_bank(self, references: Means) -> VisualBank:
        return VisualBank((references.values,))

    def score(self, features, text, visual, reference_sets) -> tuple[torch.Tensor, None]:
        distances = (features.values - visual.entries[0].T).abs()  # (B, M)
        return torch.stack([distances[:, rows].amin(dim=1) for rows in reference_sets]), None


def test_any_method_scores_images_and_references_against_each_other(
    mvtec_settings, tmp_path, monkeypatch
):
    arguments = []

    def load_method(name, clip, checkpoint, dataset, prepare) -> NearestMean:
        arguments.append((name, checkpoint, dataset))
        return NearestMean()

    monkeypatch.setattr(session, "load_method", load_method)
    root = make_mvtec(tmp_path, ["bottle"], train=3, size=(40, 60)) / "bottle"
    references = sorted((root / "train/good").iterdir())
    for path, red in zip(references, (200, 10, 50), strict=True):
        Image.new("RGB", (40, 60), (red, 0, 0)).save(path)
    settings = CustomSettings(
        images=str(root / "test/hole"),
        class_name="nut",
        references=str(root / "train/good"),
        model=mvtec_settings.model,
        method="inctrl",
        checkpoint="random",
        num_workers=0,
        result_dir=str(tmp_path / "result"),
    )
    run(settings, plan_custom(settings))
    assert arguments == [("inctrl", "random", "custom")]

    def mean(path: Path) -> float:  # of the centre's red channel, normalised
        tiles, _ = cut_tiles(Image.open(path), 32, "centre_crop")
        return float(normalise(torch.from_numpy(tiles), *statistics)[0, 0].mean())

    clip = load_clip(mvtec_settings.model, RANDOM)
    statistics = torch.tensor([clip.mean, clip.std])[:, :, None, None]
    means = {path: mean(path) for path in references}
    scores = load_scores(tmp_path / "result/scores/nut.npz")
    assert scores.run_names() == ["3-shot"] and scores.maps is None
    expected = [
        min(abs(mean(root / "test/hole" / image) - other) for other in means.values())
        for image in scores.image
    ]
    assert scores.image_scores[0] == pytest.approx(expected, abs=1e-6)
    record = json.loads((tmp_path / "result/done/nut.json").read_text())
    apart = [
        min(abs(means[path] - means[other]) for other in references if other != path)
        for path in references
    ]
    assert apart != sorted(apart)  # otherwise their order could be wrong unnoticed
    assert record["leave_one_out"] == pytest.approx(apart, abs=1e-6)
    settings_json = json.loads((tmp_path / "result/settings.json").read_text())
    assert settings_json["fingerprint"]["checkpoint"] == "nothing learned"
    notes = settings_json["notes"]
    for words in ("A NOTE OF THE METHOD", "RANDOM CHECKPOINT", "RANDOM WEIGHTS"):
        assert any(words in note for note in notes)
    other = Weights("file.pth", "ab12", "nothing learned")
    monkeypatch.setattr(NearestMean, "checkpoint", other)
    with pytest.raises(InputError, match="checkpoint was nothing learned, now ab12"):
        run(settings, plan_custom(settings))

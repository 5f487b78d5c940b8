"""The demo CLIP on the demo benchmark: its scores mean something, so wrong ones fail a test."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import run_demo
from datasets.demo import Options, make
from datasets.official import GROUPS, OFFICIAL, Counts
from models.clip.weights import load_clip
from tests.conftest import PROJECT
from utils.experiment.settings import Settings
from utils.results.scores import load_scores
from utils.run import session
from utils.run.benchmark import run

UNSEEN = GROUPS["demo"]["unseen"]
# Floors in percent, with a margin below what the committed weights reach.
FLOORS = {
    (0, "image_auroc"): 89.0,
    (0, "pixel_auroc"): 87.5,
    (0, "pixel_aupro"): 68.0,
    (4, "image_auroc"): 91.0,
    (4, "pixel_auroc"): 95.0,
}

# Zero-shot image score, and the map's highest and lowest, of leather/test/hole/000.png.
GOLDEN = (0.7061, 0.5026, 0.4134)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """Render some images of the unseen categories; return the runner's settings for them."""
    folder = tmp_path_factory.mktemp("demo")
    few = {
        name: Counts(4, 5, 8, dict.fromkeys(OFFICIAL["demo"][name].defects, 2)) for name in UNSEEN
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OFFICIAL, "demo", few)
        make(Options(folder / "raw", splits_folder=folder / "splits"))
    constants = {k.lower(): v for k, v in vars(run_demo).items() if k.isupper()}
    return replace(
        Settings("demo", **constants),
        data_root=str(folder / "raw"),
        split=str(folder / "splits" / "demo.csv"),
        result_dir=str(folder / "result"),
        shots=(0, 4),
        seeds=(0,),
        heatmaps="none",
        num_workers=0,
    )


@pytest.fixture(scope="module")
def done(settings) -> Path:
    """Return the result folder of a run on all unseen categories."""
    run(settings)
    return Path(settings.result_dir)


def mean_of_unseen(folder: Path, shots: int, metric: str) -> float:
    summary = pd.read_csv(folder / "summary.csv")
    rows = summary.query("category == 'mean of unseen' and shots == @shots")
    return rows.set_index("metric").loc[metric, "mean"]


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "metric"), FLOORS)
def test_unseen_categories_score_above_a_floor(done, shots, metric):
    assert mean_of_unseen(done, shots, metric) > FLOORS[shots, metric]


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "points"), [("image_auroc", 0.5), ("pixel_auroc", 5)])
def test_references_raise_image_and_pixel_auroc(done, metric, points):
    assert mean_of_unseen(done, 4, metric) > mean_of_unseen(done, 0, metric) + points


@pytest.mark.slow
def test_every_output_names_the_demo_model(done):
    assert "not comparable with published results" in (done / "summary.md").read_text()
    assert "DEMO MODEL" in (done / "summary.md").read_text()
    assert "DEMO MODEL" in (done / "settings.json").read_text()


@pytest.mark.slow
def test_swapped_prompts_invert_the_ranking(done, settings, tmp_path, monkeypatch):
    """With normal and anomalous states exchanged, a zero-shot score s becomes 1 - s."""
    ensemble = session.prompt_ensemble
    monkeypatch.setattr(session, "prompt_ensemble", lambda *a: ensemble(*a)[::-1])
    run(
        replace(
            settings,
            categories=("leather",),
            shots=(0,),
            limit=2,
            heatmaps="none",
            result_dir=str(tmp_path),
        )
    )
    swapped = load_scores(tmp_path / "scores" / "leather.npz")
    right = load_scores(done / "scores" / "leather.npz")
    rows = [right.image.tolist().index(image) for image in swapped.image.tolist()]
    assert swapped.image_scores[0] == pytest.approx(1 - right.image_scores[0, rows], abs=1e-4)
    assert swapped.image_scores[0, swapped.label == 0].mean() > (
        swapped.image_scores[0, swapped.label == 1].mean()
    )


def test_the_weights_are_small_and_recognised():
    file = Path(run_demo.PRETRAINED)
    assert file.is_relative_to(PROJECT) and file.stat().st_size <= 16e6
    clip = load_clip(run_demo.MODEL, run_demo.PRETRAINED)
    assert clip.weights.demo and not clip.weights.random
    assert (clip.image_size, clip.model.visual.grid_size) == (240, (15, 15))


def test_the_weights_are_not_random():
    loaded = load_clip(run_demo.MODEL, run_demo.PRETRAINED).model.state_dict()
    random = load_clip(run_demo.MODEL, "random").model.state_dict()
    assert loaded.keys() == random.keys()
    assert not torch.equal(loaded["visual.conv1.weight"], random["visual.conv1.weight"])


@pytest.mark.slow
def test_scores_are_those_recorded_for_the_weights(done):
    """Compare with GOLDEN: a wrong temperature, prompt or window changes scores far more."""
    scores = load_scores(done / "scores" / "leather.npz")
    row = scores.image.tolist().index("leather/test/hole/000.png")
    measured = scores.image_scores[0, row], scores.maps[0, row].max(), scores.maps[0, row].min()
    assert measured == pytest.approx(GOLDEN, abs=2e-3)

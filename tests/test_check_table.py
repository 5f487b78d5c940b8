"""Test the rules for faulty tables on runs with planted faults, whose encoder is a stand-in.

Only the effect of squashing on real images needs a real encoder: its table is a published one.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datasets.mvtec import MVTEC
from datasets.prepare import Options, prepare
from models.clip.encoder import WindowedEncoder
from models.methods import WinClip
from models.winclip import Features, TextBank
from tests.clips import write_config
from tests.layouts import make_mvtec
from tools import check_table
from utils.cli import parse_options
from utils.errors import InputError
from utils.evaluation.metrics import PIXEL_METRICS, image_metrics
from utils.experiment.settings import Settings
from utils.results.scores import load_scores
from utils.results.summary import load_published, published_for, write_tables
from utils.run.benchmark import run


def published(source: str, dataset: str = "mvtec") -> pd.DataFrame:
    """Return the categories of a published 0-shot table: category, metric, value."""
    rows = load_published().query("source == @source and dataset == @dataset and shots == 0")
    return rows.query("category != 'mean'")[["category", "metric", "value"]]


def replaced(rows: pd.DataFrame, values: dict[str, float]) -> pd.DataFrame:
    """Return a table with the same values of some metrics in each category."""
    return rows.assign(value=rows["metric"].map(values).fillna(rows["value"]))


def faults(rows: pd.DataFrame, dataset: str = "mvtec") -> list[str]:
    """Return the names of the faults found."""
    return [text.partition(":")[0] for text in check_table.check(rows, dataset)[1]]


def see_bright_spots(encoder: WindowedEncoder, pixels: torch.Tensor) -> Features:
    """Stand in for `encode_images`: a patch is as anomalous as it is white, with some noise."""
    white = F.avg_pool2d((pixels.mean(dim=1, keepdim=True) > 1.4).float(), 16)
    noise = torch.Generator().manual_seed(int(pixels.double().sum() * 1e6) % 2**32)

    def embed(whiteness: torch.Tensor, deviation: float) -> torch.Tensor:
        whiteness = whiteness + deviation * torch.randn(whiteness.shape, generator=noise)
        return torch.stack([1 - whiteness, whiteness], dim=-1)  # between the two states

    windows = [F.avg_pool2d(white, size, 1).flatten(1) for size in encoder.scales]
    image = embed(3 * white.mean(dim=(1, 2, 3)), 0.07)
    windows = tuple(embed(values, 0.4) for values in windows)
    return Features(image, windows, windows[0], encoder.grid, encoder.scales)


def constant_windows(encoder: WindowedEncoder, pixels: torch.Tensor) -> Features:
    """Give all windows the embedding of the image, as if attention mixed up their tokens."""
    features = see_bright_spots(encoder, pixels)
    windows = tuple(features.image[:, None].expand_as(scale) for scale in features.windows)
    return replace(features, windows=windows)


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory) -> Settings:
    """Return a small MVTec AD, in which the masks of metal_nut are missing."""
    folder = tmp_path_factory.mktemp("check")
    root = make_mvtec(folder / "raw", train=1, good=4, each=8)
    split = prepare(MVTEC, Options(root, splits_folder=folder, allow_incomplete=True))[0]
    rows = pd.read_csv(split, keep_default_na=False)
    rows.loc[rows["class_name"] == "metal_nut", "mask"] = ""
    rows.to_csv(split, index=False)
    model = write_config(folder, "small", 240, 16, layers=2, width=32)
    settings = Settings("mvtec", str(root), str(split), model=str(model), pretrained="random")
    return replace(settings, shots=(0,), heatmaps="none", num_workers=0)


RUNS = {  # the encoder, and which of its states is anomalous
    "sound": (see_bright_spots, 1),
    "constant windows": (constant_windows, 1),
    "inverted states": (see_bright_spots, 0),
}


@pytest.fixture(scope="module")
def runs(mvtec, tmp_path_factory) -> dict[str, Path]:
    """Return the result folder of each of RUNS."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (encode, anomalous) in RUNS.items():
        states = torch.eye(2) if anomalous else torch.eye(2).flip(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WindowedEncoder, "encode_images", encode)
            patch.setattr(WinClip, "text_bank", lambda method, name, s=states: TextBank(s, 0.07))
            run(replace(mvtec, result_dir=str(folder / name)))
    return {name: folder / name for name in RUNS}


def read_run(folder: Path) -> pd.DataFrame:
    """Return the 0-shot rows of a run's table."""
    return check_table.read_zero_shot(folder / "metrics.csv")[0]


def mean_iou(folder: Path, masks: Path) -> float:
    """Return the mean over thresholds of the IoU of the maps of bottle, as some code does."""
    scores = load_scores(folder / "scores" / "bottle.npz")
    truth = [
        np.asarray(Image.open(mask)) > 0 if mask.exists() else np.zeros((96, 96), bool)
        for image in scores.image
        for mask in [masks / Path(image).parent.name / f"{Path(image).stem}_mask.png"]
    ]
    maps = np.stack(list(scores.stitched(0, [mask.shape for mask in truth])))
    thresholds = np.linspace(maps.min(), maps.max(), 50)
    pairs = [(maps >= threshold, np.stack(truth)) for threshold in thresholds]
    return float(np.mean([(p & t).sum() / (p | t).sum() for p, t in pairs]))


@pytest.mark.parametrize("source", ["winclip_paper", "accurate_winclip"])
def test_a_sound_table_carries_no_fault(source):
    assert faults(published(source)) == []
    assert faults(published("winclip_paper", "visa"), "visa") == []


def test_a_table_with_nothing_but_means_is_checked():
    means = load_published().query("source == 'winclip_paper' and dataset == 'mvtec'")
    means = means.query("shots == 0 and category == 'mean'")[["category", "metric", "value"]]
    assert faults(means) == []
    assert faults(replaced(means, {"pixel_auroc": 61.0})) == ["constant windows"]


@pytest.mark.parametrize("name", RUNS)
def test_a_fault_in_a_whole_run_is_found(runs, name):
    assert faults(read_run(runs[name])) == ([] if name == "sound" else [name])


def test_mean_iou_in_place_of_aupro_is_found(runs, mvtec):
    iou = mean_iou(runs["sound"], Path(mvtec.data_root) / "bottle/ground_truth")
    rows = read_run(runs["sound"])
    assert rows.query("metric == 'pixel_aupro'")["value"].max() > 50
    assert faults(replaced(rows, {"pixel_aupro": 100 * iou})) == ["mean IoU reported as PRO"]


def test_fractions_are_found(runs):
    rows = pd.read_csv(runs["sound"] / "metrics.csv")[["category", "metric", "value"]]
    assert faults(rows) == ["fractions read as percent"]


def test_inverted_states_hide_no_unrelated_fault():
    values = {"image_auroc": 20.0, "pixel_auroc": 0.3}
    found = faults(replaced(published("accurate_winclip"), values))
    names = "fractions read as percent", "inverted states"
    assert found == list(names)
    assert faults(replaced(published("winclip_paper"), {"image_auroc": 20.0})) == [names[-1]]


def test_undefined_metrics_written_as_0_are_found(runs):
    rows = read_run(runs["sound"])
    undefined = rows[rows["value"].isna()]
    assert set(undefined["category"]) == {"metal_nut"}
    assert set(undefined["metric"]) == set(PIXEL_METRICS)
    assert faults(rows.fillna({"value": 0.0})) == ["undefined metrics written as 0"]


def test_a_genuine_0_of_a_few_images_is_not_called_a_fault():
    labels = np.array([0, 1])
    values = image_metrics(np.array([0.9, 0.1]), labels) | {"pixel_auroc": 0.0, "pixel_aupr": 0.02}
    rows = [("bottle", metric, 100 * value) for metric, value in values.items()]
    found = check_table.check(pd.DataFrame(rows, columns=["category", "metric", "value"]), "mvtec")
    text = "perhaps undefined metrics written as 0: image_auroc, pixel_auroc exactly 0 in bottle"
    assert found[1] == [text]


def test_squashed_images_are_found_in_the_published_table_of_a_code_that_squashes():
    assert faults(published("accurate_winclip", "visa"), "visa") == ["squashed VisA"]


def test_the_command_prints_both_tables_and_the_faults(tmp_path, capsys, monkeypatch):
    path = tmp_path / "theirs.csv"
    replaced(published("winclip_paper"), {"pixel_auroc": 60.0}).to_csv(path, index=False)
    monkeypatch.setattr("sys.argv", ["check_table.py", str(path)])
    options = parse_options(check_table.Options(path), "", path)
    check_table.main(options)
    text = capsys.readouterr().out
    assert "| image_auroc  |   91.8 |      91.8 |        0.0 |" in text
    assert "Fault: constant windows: pixel AUROC 60.0" in text
    rows = published("winclip_paper").replace("bottle", "flask")
    rows.to_csv(path, index=False)
    check_table.main(options)
    text = capsys.readouterr().out
    assert "No known fault found." in text
    assert "not checked, because not published for mvtec: flask" in text
    assert "it lacks 1 of 15 categories, such as bottle; the published means are over" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("bottle", "auroc", 90.0)], 'unknown metric "auroc"; the metrics are image_auroc'),
        ([("bottle", "image_auroc", None)], r"has no 0-shot value of image_auroc, .*; fill in its"),
        ([("bottle", "image_auroc", 910.0)], "image_auroc of bottle is 910: expected 0 to 100"),
        ([("bottle", "pixel_auroc", -85.0)], "pixel_auroc of bottle is -85: expected 0 to 100"),
        ([("bottle", "image_auroc", 90.0)] * 2, "two values of image_auroc of bottle; keep one"),
        (
            [("engine", "image_auroc", 90.0), ("mean", "image_auroc", 90.0)],
            "no value of the table is in a category published for mvtec; name its benchmark with",
        ),
    ],
)
def test_a_bad_table_raises_one_sentence(rows, message, tmp_path):
    path = tmp_path / "theirs.csv"
    pd.DataFrame(rows, columns=["category", "metric", "value"]).to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        check_table.main(check_table.Options(path))


def test_two_values_of_one_number_raise_one_sentence(tmp_path):
    path = tmp_path / "theirs.csv"
    pd.concat([published("winclip_paper")] * 2).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"has two values of image_\w+ of bottle; keep one"):
        check_table.main(check_table.Options(path))


def test_the_benchmark_of_a_run_is_read_from_its_settings(tmp_path, capsys):
    path = tmp_path / "summary.csv"
    published("winclip_paper", "visa").to_csv(path, index=False)
    record = {"settings": {"dataset": "visa"}, "notes": ["DEMO WEIGHTS", "ONLY 2 IMAGES"]}
    (tmp_path / "settings.json").write_text(json.dumps(record))
    check_table.main(check_table.Options(path))
    text = capsys.readouterr().out
    assert "| image_auroc  |   78.1 |      78.1 |        0.0 |" in text
    notes = "Note of the run: DEMO WEIGHTS.\n\nNote of the run: ONLY 2 IMAGES.\n"
    assert text.endswith(f"|\n\n{notes}\nNo known fault found.\n")
    with pytest.raises(InputError, match="is in a category published for mpdd"):
        check_table.main(check_table.Options(path, "mpdd"))
    (tmp_path / "settings.json").write_text('{"settings": {"dataset": "demo"}}')
    with pytest.raises(InputError, match="no 0-shot numbers of WinCLIP are published for demo"):
        check_table.main(check_table.Options(path))


def test_the_mean_of_a_benchmark_without_published_categories_is_checked(tmp_path, capsys):
    path = tmp_path / "mean.csv"
    pd.DataFrame({"category": ["mean"], "metric": "image_auroc", "value": 60.0}).to_csv(path)
    check_table.main(check_table.Options(path, "mpdd"))
    assert "| image_auroc  |   60.0 |      63.6 |       -3.6 |" in capsys.readouterr().out


def test_the_tables_of_a_run_are_checked_at_0_shots(tmp_path, capsys):
    paper = published("winclip_paper").query("metric == 'image_auroc'")
    categories = paper["category"].tolist()
    extra = paper.assign(metric="pixel_auroc@400")
    zero = pd.concat([paper, extra]).assign(shots=0, seed=None)
    one = pd.concat([zero.assign(shots=1, seed=seed, value=50.0) for seed in (0, 1)])
    metrics = pd.concat([zero, one]).eval("value = value / 100")
    write_tables(tmp_path, metrics, published_for("mvtec"), categories)
    for name in ("metrics.csv", "summary.csv"):
        check_table.main(check_table.Options(tmp_path / name))
        text = capsys.readouterr().out
        assert f"{name}: only its 0-shot rows are checked." in text
        assert f"{name}: not checked, because not published: pixel_auroc@400." in text
        assert ("rows of means were left out" in text) == (name == "summary.csv")
        assert ("multiplied by 100" in text) == (name == "metrics.csv")
        assert "| image_auroc  |   91.8 |      91.8 |        0.0 |" in text
        assert "No known fault found." in text
    one.to_csv(tmp_path / "one.csv")
    with pytest.raises(InputError, match=r"one\.csv has no 0-shot rows"):
        check_table.main(check_table.Options(tmp_path / "one.csv"))

"""Test the rules for faulty tables: each fault is planted into our metrics, where it can be."""

import cv2
import numpy as np
import pandas as pd
import pytest

from tools import check_table
from utils.cli import parse_options
from utils.errors import InputError
from utils.evaluation.metrics import image_metrics, pixel_metrics
from utils.results.summary import load_published, published_for, write_tables

SIDE = 48


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


def example(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return scores (N,), labels (N,), masks and maps of good and anomalous images."""
    rng = np.random.default_rng(seed)
    labels = np.arange(60) >= 16  # MVTec AD's share of good images
    masks = np.zeros((60, SIDE, SIDE), bool)
    masks[labels] = [draw_square(rng) for _ in range(labels.sum())]
    noise = rng.normal(size=masks.shape).astype(np.float32)
    maps = [cv2.GaussianBlur(m + n, (0, 0), 4) for m, n in zip(masks * 3.0, noise, strict=True)]
    scores = 1 / (1 + np.exp(-(rng.normal(size=60) + 2.0 * labels)))
    return scores, labels, masks, maps


def draw_square(rng: np.random.Generator) -> np.ndarray:
    """Return a mask (SIDE, SIDE) with a square somewhere."""
    mask = np.zeros((SIDE, SIDE), bool)
    top, left = rng.integers(0, SIDE - 10, 2)
    mask[top : top + 10, left : left + 10] = True
    return mask


@pytest.mark.parametrize("source", ["winclip_paper", "accurate_winclip"])
def test_a_sound_table_carries_no_fault(source):
    assert faults(published(source)) == []
    assert faults(published("winclip_paper", "visa"), "visa") == []


def test_a_table_with_nothing_but_means_is_checked():
    means = load_published().query("source == 'winclip_paper' and dataset == 'mvtec'")
    means = means.query("shots == 0 and category == 'mean'")[["category", "metric", "value"]]
    assert faults(means) == []
    assert faults(replaced(means, {"pixel_auroc": 61.0})) == ["constant windows"]


def test_constant_maps_are_found():
    scores, labels, masks, _ = example()
    maps = [np.full((SIDE, SIDE), score, np.float32) for score in scores]  # as of equal windows
    values = image_metrics(scores, labels) | pixel_metrics(maps, masks)
    rows = replaced(
        published("accurate_winclip"), {name: 100 * value for name, value in values.items()}
    )
    assert faults(rows) == ["constant windows"]


def test_mean_iou_in_place_of_aupro_is_found():
    _, _, masks, maps = example()
    thresholds = np.percentile(maps, np.arange(0, 100, 5))
    predictions = [np.stack(maps) >= threshold for threshold in thresholds]
    iou = np.mean([(p & masks).sum() / (p | masks).sum() for p in predictions])
    values = pixel_metrics(maps, masks)
    assert values["pixel_aupro"] > 0.5
    values = {"pixel_auroc": 100 * values["pixel_auroc"], "pixel_aupro": 100 * iou}
    assert faults(replaced(published("accurate_winclip"), values)) == ["mean IoU reported as PRO"]


def test_inverted_states_are_found():
    scores, labels, _, _ = example()
    values = image_metrics(1 - scores, labels)  # the softmax over two states, with them swapped
    rows = replaced(published("accurate_winclip"), {n: 100 * v for n, v in values.items()})
    assert faults(rows) == ["inverted states"]


def test_squashed_images_are_found_in_the_published_table_of_a_code_that_squashes():
    assert faults(published("accurate_winclip", "visa"), "visa") == ["squashed VisA"]


def test_fractions_are_found():
    scores, labels, _, _ = example()
    values = image_metrics(scores, labels)
    assert faults(replaced(published("accurate_winclip"), values)) == ["fractions read as percent"]
    values = published("winclip_paper")
    assert faults(values.assign(value=values["value"] / 100)) == ["fractions read as percent"]


def test_undefined_metrics_written_as_0_are_found():
    _, _, masks, maps = example()
    undefined = np.nan_to_num(list(pixel_metrics(maps, np.zeros_like(masks)).values()))
    rows = published("winclip_paper")
    of_bottle = (rows["category"] == "bottle") & (rows["metric"] == "pixel_auroc")
    rows.loc[of_bottle, "value"] = undefined[0]
    assert faults(rows) == ["undefined metrics written as 0"]


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
    assert "it lacks 1 of 15 categories, such as bottle" in text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("bottle", "auroc", 90.0)], 'unknown metric "auroc"; the metrics are image_auroc'),
        ([("bottle", "image_auroc", 910.0)], "image_auroc of bottle is 910: expected 0 to 100"),
        ([("bottle", "pixel_auroc", -85.0)], "pixel_auroc of bottle is -85: expected 0 to 100"),
        ([("bottle", "image_auroc", 90.0)] * 2, "two values of image_auroc of bottle; keep one"),
        ([("engine", "image_auroc", 90.0)], "no category of the table, nor a mean, is published"),
    ],
)
def test_a_bad_table_raises_one_sentence(rows, message):
    rows = pd.DataFrame(rows, columns=["category", "metric", "value"])
    with pytest.raises(InputError, match=message):
        check_table.check(rows, "mvtec")


def test_two_values_of_one_number_raise_one_sentence(tmp_path):
    path = tmp_path / "theirs.csv"
    pd.concat([published("winclip_paper")] * 2).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"has two values of image_\w+ of bottle; keep one"):
        check_table.main(check_table.Options(path))


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
        assert ("multiplied by 100" in text) == (name == "metrics.csv")
        assert "| image_auroc  |   91.8 |      91.8 |        0.0 |" in text
        assert "No known fault found." in text
    one.to_csv(tmp_path / "one.csv")
    with pytest.raises(InputError, match=r"one\.csv has no 0-shot rows"):
        check_table.main(check_table.Options(tmp_path / "one.csv"))

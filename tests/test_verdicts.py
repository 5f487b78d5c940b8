"""Thresholds, verdicts and detected defects: by hand, and of runs with custom images."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.references import NO_SEED
from datasets.splits import UNKNOWN
from tests.clips import write_config
from tests.layouts import make_mvtec
from utils.category.evaluate import evaluate
from utils.errors import InputError
from utils.evaluation.metrics import PixelEvaluator
from utils.experiment.custom import CustomSettings
from utils.results.coco import coco
from utils.results.defects import BELOW, find_defects, find_regions, find_thresholds
from utils.results.scores import Scores, load_scores
from utils.results.thresholds import (
    F1_MAX,
    REFERENCES,
    Threshold,
    allowed_rank,
    check_false_alarms,
    conformal_quantile,
    explain_threshold,
    pixel_f1_threshold,
)
from utils.run.benchmark import run
from utils.run.custom import plan_custom

DEFECT = {"box": [1, 1, 3, 3], "area": 6, "peak": 0.9, "contours": [[[1, 1], [3, 1], [3, 3]]]}
SCORES = [0.1, 0.5, 0.2, 0.4, 0.3]


def test_the_conformal_quantile_is_the_ceil_of_n_plus_1_times_1_minus_rate_th_smallest():
    for rate in (0.17, 0.2, 0.33, 0.34, 0.5, 0.75):
        rank = int(np.ceil(round(6 * (1 - rate), 9)))
        assert conformal_quantile(SCORES, rate) == sorted(SCORES)[rank - 1]
    assert conformal_quantile(SCORES, None) == 0.5


def test_a_good_image_exceeds_the_quantile_no_more_often_than_the_rate():
    rng = np.random.default_rng(0)
    draws = rng.random((4000, 40))
    above = np.mean([draw[-1] > conformal_quantile(draw[:-1].tolist(), 0.1) for draw in draws])
    assert 0.08 < above <= 0.11  # 4 of 40


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.3, 3), (0.5, 2), (0.9, 2)]
)
def test_a_rate_names_the_number_of_references_it_needs(rate, needed):
    check_false_alarms(rate, needed)
    assert allowed_rank(needed, rate) >= 1
    with pytest.raises(InputError, match=f"at least {needed} reference images, and there are"):
        check_false_alarms(rate, needed - 1)


def test_a_threshold_compares_float32_values_however_many_digits_they_have():
    score = float(np.float32(0.7))  # 0.699999988
    assert Threshold(0.7, F1_MAX).exceeded_by(score)
    assert not Threshold(0.7, REFERENCES).exceeded_by(score)
    assert Threshold(0.7, REFERENCES).exceeded_by(np.array([0.6, 0.8])).tolist() == [False, True]


def test_the_explanation_says_how_many_good_images_exceed_the_threshold():
    assert "about 1 in 5 good images" in explain_threshold(0.5, 4, None)
    text = explain_threshold(0.5, 40, 0.05)
    assert "reached by 2 of 40 reference images" in text and "at most 5 % of good images" in text


@pytest.mark.parametrize("seed", range(4))
def test_the_pixel_threshold_has_the_highest_f1_of_all_values(seed):
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, 9, shape).astype(np.float32) for shape in ((6, 5), (4, 8), (5, 5))]
    masks = [
        rng.random(values.shape) < share for values, share in zip(maps, (0.3, 0, 0.2), strict=True)
    ]
    values = np.concatenate([v.ravel() for v in maps])
    anomalous = np.concatenate([m.ravel() for m in masks])
    f1 = {
        value: 2
        * (anomalous & (values >= value)).sum()
        / ((values >= value).sum() + anomalous.sum())
        for value in np.unique(values)
    }
    counts = PixelEvaluator(masks).count_scores(maps)
    assert pixel_f1_threshold(counts, maps, masks) == max(f1, key=f1.get)
    blank = [mask & False for mask in masks]
    assert pixel_f1_threshold(PixelEvaluator(blank).count_scores(maps), maps, blank) is None


def test_an_anomalous_image_without_a_mask_does_not_move_the_pixel_threshold():
    scores = fabricated([0, 1, 1])
    masks = [np.zeros((30, 30), bool) for _ in range(3)]
    masks[1][12:18, 12:18] = True
    *_, alone = evaluate("a", scores.rows([0, 1]), masks[:2])
    assert alone is not None
    assert evaluate("a", scores, masks)[-1] == alone
    assert evaluate("a", scores, [mask & False for mask in masks])[-1] is None


def fabricated(labels: list[int], tiles: int = 1, size=(30, 30)) -> Scores:
    """Return 0-shot scores 0.1, 0.2 ... with a square of that height in the middle of each map."""
    count = len(labels)
    values = np.arange(1, count + 1, dtype=np.float32) / 10
    maps = np.zeros((1, count * tiles, 15, 15), np.float32)
    maps[0, :, 6:9, 6:9] = values.repeat(tiles)[:, None, None]
    return Scores(
        image=np.array([f"{index}.png" for index in range(count)]),
        label=np.array(labels),
        shots=np.array([0]),
        seed=np.array([NO_SEED]),
        image_scores=values[None],
        maps=maps,
        tiles=np.array([(1, tiles)] * count),
        tile_side=np.full(count, min(size)),
        size=np.array([size] * count),
    )


def test_thresholds_come_from_masks_references_or_images_below_the_threshold():
    labelled, unlabelled = fabricated([0, 0, 1, 1]), fabricated([UNKNOWN] * 4)
    references = {"leave_one_out": [0.15, 0.25], "leave_one_out_peaks": [0.35, 0.05]}

    def sources(scores, record):
        detection = find_thresholds(scores, record, None)
        return [(round(t.value, 6), t.source) for t in detection[1:]]

    below = [(0.3, F1_MAX), (0.2, BELOW)]
    assert sources(labelled, {"pixel_threshold": None}) == below
    assert sources(labelled, {"pixel_threshold": 0.28}) == [(0.3, F1_MAX), (0.28, F1_MAX)]
    both = references | {"pixel_threshold": 0.28}
    assert sources(labelled, both) == [(0.25, REFERENCES), (0.28, F1_MAX)]
    assert sources(unlabelled, references) == [(0.25, REFERENCES), (0.35, REFERENCES)]
    assert find_thresholds(unlabelled, {}, None) is None
    all_above = fabricated([1, 0])  # both are above the threshold
    detection = find_thresholds(all_above, {}, None)
    assert detection.pixel is None
    assert [image["defects"] for image in find_defects(all_above, detection)] == [[], []]


def test_defects_are_measured_at_the_resolution_of_the_image():
    scores = fabricated([0, 1, 1], size=(150, 300))
    found = find_defects(scores, find_thresholds(scores, {"pixel_threshold": 0.1}, None))
    assert [image["image"] for image in found] == ["1.png", "2.png"]
    (defect,) = found[1]["defects"]  # 0.3 in 60 x 30 pixels, falling to 0 within half a cell
    left, top, width, height = defect["box"]
    assert (left + width / 2, top + height / 2) == (150, 75)
    assert 60 < width < 80 and 30 < height < 40
    assert defect["peak"] == 0.3 and 0.1 < defect["mean"] < 0.3
    assert 0.85 * width * height < defect["area"] <= width * height
    (border,) = np.array(defect["contours"])
    assert (border.min(axis=0) == (left, top)).all()
    assert (border.max(axis=0) == (left + width - 1, top + height - 1)).all()


def test_a_hole_is_a_contour_and_diagonal_neighbours_are_one_defect():
    values = np.zeros((9, 9), np.float32)
    values[1:6, 1:6] = 0.5
    values[3, 3] = 0
    values[6, 6] = 0.9
    values[8, 0] = 0.6
    large, dot = find_regions(values, Threshold(0.4, REFERENCES))
    assert (large["area"], large["box"], len(large["contours"])) == (25, [1, 1, 6, 6], 2)
    assert [0, 0] not in large["contours"][0] and [1, 1] in large["contours"][0]
    assert (dot["box"], dot["contours"]) == ([0, 8, 1, 1], [[[0, 8]]])


def test_coco_lists_every_image_and_the_same_defects():
    images = [
        {"category": "nut", "image": "b.png", "defects": [DEFECT, DEFECT | {"box": [4, 4, 1, 2]}]}
    ]
    content = coco("nuts", ["bolt", "nut"], images, [("a.png", (9, 8)), ("b.png", (5, 6))])
    assert content["images"][1] == {"id": 2, "file_name": "b.png", "height": 5, "width": 6}
    assert [category["name"] for category in content["categories"]] == ["bolt", "nut"]
    first, second = content["annotations"]
    assert first == {
        "id": 1,
        "image_id": 2,
        "category_id": 2,
        "segmentation": [[1, 1, 3, 1, 3, 3]],
        "bbox": [1, 1, 3, 3],
        "area": 6,
        "iscrowd": 0,
        "score": 0.9,
    }
    assert (second["id"], second["image_id"]) == (2, 2)


def test_a_polygon_of_fewer_than_three_points_is_the_box():
    dot = DEFECT | {"box": [4, 2, 2, 1], "contours": [[[4, 2], [5, 2]]]}
    content = coco(
        "", ["nut"], [{"category": "nut", "image": "a", "defects": [dot]}], [("a", (9, 9))]
    )
    assert content["annotations"][0]["segmentation"] == [[4, 2, 6, 2, 6, 3, 4, 3]]


def settings(folder: Path, **changes) -> CustomSettings:
    """Settings with a small random CLIP."""
    model = write_config(folder, "small-verdicts", 240, 16, layers=2, width=32)
    values = {"class_name": "metal nut", "model": str(model), "pretrained": "random"}
    values |= {"num_workers": 0, "heatmaps": "none", "result_dir": str(folder / "result")}
    return CustomSettings(dataset="custom", **values | changes)


@pytest.fixture(scope="module")
def custom(tmp_path_factory) -> CustomSettings:
    """Run on unlabelled images with four references; return the settings."""
    folder = tmp_path_factory.mktemp("verdicts")
    root = make_mvtec(folder, ["bottle"], train=4) / "bottle"
    images, references = (str(root / name) for name in ("test/hole", "train/good"))
    custom = settings(folder, images=images, references=references, false_alarms=0.4, coco=True)
    run(custom, plan_custom(custom))
    return custom


def read_csv(folder: Path) -> list[dict]:
    return list(csv.DictReader((folder / "scores/metal nut.csv").open(encoding="utf-8")))


def test_the_verdicts_stand_in_csv_json_and_shots(custom):
    folder = custom.result_folder
    record = json.loads((folder / "done/metal nut.json").read_text())
    threshold = sorted(record["leave_one_out"])[2]  # ceil(5 * 0.6) = 3rd smallest
    scores = load_scores(folder / "scores/metal nut.npz").image_scores[-1]
    assert [int(row["above_threshold"]) for row in read_csv(folder)] == (
        scores > threshold
    ).tolist()
    for row in read_csv(folder):
        assert (row["label"], row["defect"]) == ("", "")
        assert float(row["threshold"]) == pytest.approx(threshold)
    rows = json.loads((folder / "scores.json").read_text())
    assert [row["above_threshold"] for row in rows] == (scores > threshold).tolist()
    assert "metal nut,4,,/" in (folder / "shots.csv").read_text()


def test_the_heading_of_a_panel_states_score_threshold_and_verdict(custom, tmp_path, monkeypatch):
    headings = []

    def draw(image, mask, maps, name, **_) -> np.ndarray:
        headings.append(name)
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr("utils.category.panels.draw_panel", draw)
    drawn = replace(custom, heatmaps="all", result_dir=str(tmp_path))
    run(drawn, plan_custom(drawn))
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert headings == [
        f"{row['image']}   4-shot score {row['4-shot']:.3f}: "
        f"{'above' if row['above_threshold'] else 'not above'} the threshold {row['threshold']:.3f}"
        for row in rows
    ]


def test_another_rate_changes_the_verdicts_without_encoding_again(custom):
    folder = custom.result_folder
    before = (folder / "scores/metal nut.npz").stat().st_mtime_ns
    original = json.loads((folder / "defects.json").read_text())
    highest = replace(custom, false_alarms=None, coco=False, heatmaps=1)
    run(highest, plan_custom(highest))
    assert "the heatmaps still state the threshold" in (folder / "run.log").read_text()
    record = json.loads((folder / "done/metal nut.json").read_text())
    assert float(read_csv(folder)[0]["threshold"]) == pytest.approx(max(record["leave_one_out"]))
    defects = json.loads((folder / "defects.json").read_text())["categories"]["metal nut"]
    peak = max(record["leave_one_out_peaks"])
    assert defects["pixel_threshold"] == pytest.approx(peak)
    assert not (folder / "defects_coco.json").exists()
    by_category = (folder / "defects/metal nut.jsonl").read_text().splitlines()
    assert json.loads(by_category[0]) == {"false_alarms": None, "category": defects}
    shutil.rmtree(folder / "defects")  # as in a folder of an earlier version
    run(custom, plan_custom(custom))
    assert json.loads((folder / "defects.json").read_text()) == original
    assert (folder / "defects_coco.json").exists()
    assert (folder / "scores/metal nut.npz").stat().st_mtime_ns == before


def test_a_run_without_maps_has_verdicts_but_no_defects(custom, tmp_path):
    fast = replace(custom, maps=False, coco=False, result_dir=str(tmp_path))
    for rate in (0.4, None):  # another rate changes no panel, because there is none
        changed = replace(fast, false_alarms=rate).resolve()
        run(changed, plan_custom(changed))
    record = json.loads((tmp_path / "done/metal nut.json").read_text())
    rows = json.loads((tmp_path / "scores.json").read_text())
    threshold = max(record["leave_one_out"])
    assert [row["above_threshold"] for row in rows] == [
        row["4-shot, patch tokens"] > threshold for row in rows
    ]
    full = load_scores(custom.result_folder / "scores/metal nut.npz").image_scores
    np.testing.assert_array_equal([row["0-shot"] for row in rows], full[0])
    assert "4-shot, patch tokens" in read_csv(tmp_path)[0]
    written = {path.name for path in tmp_path.iterdir()}
    assert not {"heatmaps", "defects", "defects.json"} & written and "report.html" in written
    assert "the heatmaps still state" not in (tmp_path / "run.log").read_text()


def test_leave_one_out_scores_take_the_maximum_over_tiles_as_image_scores_do(tmp_path):
    root = make_mvtec(tmp_path, ["bottle"], train=2) / "bottle"
    first, second = sorted((root / "train/good").iterdir())
    other = str(root / "test/good/000.png")
    tiled = settings(tmp_path, images=other, references=str(root / "train/good"), tile=60)
    run(tiled, plan_custom(tiled))
    record = json.loads((tiled.result_folder / "done/metal nut.json").read_text())
    apart = replace(tiled, images=str(first), references=str(second))
    apart = replace(apart, result_dir=str(tmp_path / "apart"))
    run(apart, plan_custom(apart))
    scores = load_scores(apart.result_folder / "scores/metal nut.npz")
    assert scores.tiles.prod() > 1
    assert record["leave_one_out"][0] == pytest.approx(scores.image_scores[-1, 0], abs=1e-6)
    assert record["leave_one_out_peaks"][0] == pytest.approx(scores.maps[-1].max(), abs=1e-6)


def test_too_few_references_for_a_rate_are_refused_before_encoding(custom):
    for changes, message in (
        ({"false_alarms": 0.05}, "and there are 4"),
        ({"references": ""}, "needs reference images; add --references"),
    ):
        changed = replace(custom, **changes)
        with pytest.raises(InputError, match=f"FALSE_ALARMS.*{message}"):
            plan_custom(changed)
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="FALSE_ALARMS"):
            replace(custom, false_alarms=rate)

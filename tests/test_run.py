"""Whole runs on small images and a small CLIP with random weights."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image

from datasets import mvtec
from datasets.images import Item
from datasets.prepare import Options, prepare
from datasets.references import COLUMNS, reference_rows
from datasets.splits import read_split
from models.clip.encoder import WindowedEncoder
from tests.benches import RUNS, SEEDS, SHOTS, contents
from tests.reports import new_folder
from utils.category.result import split_by_image
from utils.errors import InputError
from utils.evaluation.metrics import EXTRA_METRICS, IMAGE_METRICS, METRICS
from utils.experiment.plan import plan_benchmark
from utils.files import write_text
from utils.results.folder import ResultFolder
from utils.results.scores import load_scores
from utils.run import benchmark
from utils.run.benchmark import run


def test_a_run_writes_all_its_files(mvtec_result):
    names = set(contents(mvtec_result))
    assert {"metrics.csv", "summary.csv", "summary.md", "summary.tex", "shots.csv"} <= names
    for category in ("bottle", "metal_nut"):
        assert f"scores/{category}.npz" in names
        assert f"scores/{category}.csv" in names
        panels = {name for name in names if name.startswith(f"heatmaps/{category}/")}
        assert len(panels) == 3 + 2 * 2
        assert f"heatmaps/{category}/crack/001.png" in panels
    assert not [name for name in names if name.endswith(".part")]


def test_metrics_have_a_row_for_every_run_and_metric(mvtec_result):
    table = pd.read_csv(mvtec_result / "metrics.csv")
    assert list(table.columns) == ["category", "shots", "seed", "metric", "value"]
    assert len(table) == 2 * RUNS * len(METRICS)
    assert table["value"].between(0, 1).all()
    assert table[table["shots"] == 0]["seed"].isna().all()
    assert sorted(table[table["shots"] == 2]["seed"].unique()) == list(SEEDS)


def test_scores_hold_all_runs_of_all_images(mvtec_result, mvtec_settings):
    scores = load_scores(mvtec_result / "scores" / "bottle.npz")
    rows = [s for s in read_split(Path(mvtec_settings.split)) if s.class_name == "bottle"]
    tests = [sample for sample in rows if sample.split == "test"]
    assert scores.image.tolist() == [sample.image for sample in tests]
    assert scores.label.tolist() == [sample.label for sample in tests]
    assert scores.shots.tolist() == [0, 1, 1, 2, 2]
    assert scores.seed.tolist() == [-1, 0, 1, 0, 1]
    assert scores.maps.shape == (RUNS, len(tests), 15, 15)
    assert scores.image_scores.shape == (RUNS, len(tests))
    assert np.unique(scores.maps[0, 0]).size > 100  # a map, not a constant
    table = pd.read_csv(mvtec_result / "scores" / "bottle.csv")
    assert table["2-shot seed 1"].to_numpy(np.float32).tolist() == scores.image_scores[4].tolist()


def test_settings_json_records_what_results_depend_on(mvtec_result):
    record = json.loads((mvtec_result / "settings.json").read_text())
    assert record["settings"]["shots"] == list(SHOTS)
    assert record["fingerprint"]["temperature"] == 0.07
    assert len(record["fingerprint"]["split_sha256"]) == 64
    assert {"torch", "open_clip_torch", "numpy", "python"} <= set(record["versions"])
    assert record["versions"]["opencv"] == cv2.__version__  # whichever package provides it
    stages = {
        "start-up",
        "text",
        "decode",
        "encode",
        "score",
        "metrics",
        "write",
        "heatmaps",
        "defects",
    }
    assert set(record["seconds"]) == stages | {"report"}
    assert record["git_revision"]
    assert record["weights"]["description"] == "random weights (seed 0)"


def test_every_output_warns_of_random_weights(mvtec_result):
    for name in ("summary.md", "summary.tex", "report.html", "run.log"):
        assert "RANDOM WEIGHTS" in (mvtec_result / name).read_text()
    record = json.loads((mvtec_result / "settings.json").read_text())
    assert "RANDOM WEIGHTS" in record["notes"][0]
    with Image.open(mvtec_result / "heatmaps/bottle/good/000.png") as panel:
        red = (np.asarray(panel)[:80] == (185, 28, 28)).all(axis=-1)
    assert red.sum() > 100  # the note in its own colour, above the images


def test_the_summary_shows_the_papers_numbers_beside_ours(mvtec_result):
    table = pd.read_csv(mvtec_result / "summary.csv").set_index(["category", "shots", "metric"])
    row = table.loc[("bottle", 0, "pixel_auroc")]
    assert (row["paper"], row["public"]) == (89.5, 85.7)
    text = (mvtec_result / "summary.md").read_text()
    assert "| bottle" in text
    assert "No published mean" in text


def test_every_image_is_encoded_once(mvtec_settings, tmp_path, monkeypatch):
    encoded = []
    original = WindowedEncoder.encode_images

    def count(self, pixels):
        encoded.extend(image.sum().item() for image in pixels)
        return original(self, pixels)

    monkeypatch.setattr(WindowedEncoder, "encode_images", count)
    run(replace(mvtec_settings, heatmaps="none", result_dir=str(tmp_path)))
    shots = pd.read_csv(tmp_path / "shots.csv")
    tests = [s for s in read_split(Path(mvtec_settings.split)) if s.split == "test"]
    assert len(shots) == 2 * 2 * (1 + 2)  # categories x seeds x (1-shot and 2-shot)
    assert len(encoded) == len(set(encoded)) == shots["image"].nunique() + len(tests)


def test_a_rerun_skips_finished_categories(
    mvtec_result, mvtec_settings, tmp_path, monkeypatch, capsys
):
    copy = shutil.copytree(mvtec_result, tmp_path / "r")
    monkeypatch.setattr(WindowedEncoder, "encode_images", None)  # would fail if it were called
    assert "RANDOM WEIGHTS" in run(replace(mvtec_settings, result_dir=str(copy)))
    printed = capsys.readouterr().out
    assert "bottle: already finished, skipped" in printed
    assert "RANDOM WEIGHTS" in printed
    assert contents(copy) == contents(mvtec_result)


def test_batch_size_workers_and_row_order_change_no_byte(mvtec_result, mvtec_settings, tmp_path):
    header, *lines = Path(mvtec_settings.split).read_text().splitlines()
    random.Random(0).shuffle(lines)
    split = tmp_path / "mvtec.csv"
    split.write_text("\n".join([header, *lines]) + "\n")
    changes = {"batch_size": 1, "num_workers": 2, "split": str(split)}
    run(replace(mvtec_settings, **changes, result_dir=str(tmp_path / "r")))
    assert contents(tmp_path / "r") == contents(mvtec_result)


def test_listed_references_are_used(mvtec_result, mvtec_settings, tmp_path):
    listed = replace(mvtec_settings, references=str(mvtec_result / "shots.csv"))
    run(replace(listed, result_dir=str(tmp_path / "same")))
    assert contents(tmp_path / "same") == contents(mvtec_result)
    table = pd.read_csv(mvtec_result / "shots.csv")
    table["seed"] = 1 - table["seed"]
    table.to_csv(tmp_path / "swapped.csv", index=False)
    changes = {"categories": ("bottle",), "heatmaps": "none"}
    swapped = replace(mvtec_settings, references=str(tmp_path / "swapped.csv"), **changes)
    run(replace(swapped, result_dir=str(tmp_path / "swapped")))
    maps = load_scores(mvtec_result / "scores/bottle.npz").maps
    swapped_maps = load_scores(tmp_path / "swapped/scores/bottle.npz").maps
    np.testing.assert_array_equal(maps[[1, 2]], swapped_maps[[2, 1]])


def test_categories_can_be_added_to_a_folder(mvtec_result, mvtec_settings, tmp_path):
    first = replace(mvtec_settings, result_dir=str(tmp_path), categories=("metal_nut",))
    run(first)
    assert "bottle" not in (tmp_path / "shots.csv").read_text()
    run(replace(first, categories=()))
    assert contents(tmp_path) == contents(mvtec_result)


def test_a_split_may_have_unknown_categories(mvtec_settings, tmp_path):
    split = tmp_path / "own.csv"
    split.write_text(Path(mvtec_settings.split).read_text().replace("metal_nut,", "valve,"))
    changes = {"split": str(split), "shots": (0,), "heatmaps": "none"}
    summary = run(replace(mvtec_settings, **changes, result_dir=str(tmp_path / "r")))
    assert (tmp_path / "r/scores/valve.csv").exists()
    assert "valve" in summary
    table = pd.read_csv(tmp_path / "r/summary.csv")
    assert table.query("category in ['valve', 'mean']")["paper"].isna().all()


@pytest.mark.parametrize(("interval", "expected"), [(0.0, [7, 14, 14]), (1e9, [14])])
def test_tables_are_written_between_categories_and_the_report_at_the_end(
    mvtec_settings, tmp_path, monkeypatch, interval, expected
):
    monkeypatch.setattr(benchmark, "TABLES_INTERVAL_S", interval)
    reports, tables = [], []
    monkeypatch.setattr("utils.report.page.write_report", reports.append)
    monkeypatch.setattr(
        benchmark, "write_tables", lambda folder, metrics, *_: tables.append(len(metrics))
    )
    monkeypatch.setattr(benchmark, "write_summary_page", lambda folder: "")
    monkeypatch.setattr(benchmark, "write_summary_tex", lambda folder: "")
    run(replace(mvtec_settings, shots=(0,), heatmaps="none", result_dir=str(tmp_path)))
    assert tables == expected  # seven metrics of one category, then of two
    assert reports == [tmp_path]


def test_the_largest_category_is_scored_first(mvtec_settings, tmp_path, monkeypatch):
    settings = replace(mvtec_settings, shots=(0,), result_dir=str(tmp_path)).resolve()
    experiment = plan_benchmark(settings)
    bottle, metal_nut = experiment.tasks
    bottle = replace(bottle, tests=bottle.tests[:-1])
    order = []
    monkeypatch.setattr(benchmark, "score_category", lambda task, *_: order.append(task.category))
    monkeypatch.setattr(benchmark, "finish", lambda session: "")
    run(settings, replace(experiment, tasks=[bottle, metal_nut]))
    assert order == ["metal_nut", "bottle"]


@pytest.mark.parametrize("error", [InputError("a bad image"), KeyboardInterrupt()])
def test_the_tables_have_all_finished_categories_after_an_error(
    mvtec_settings, tmp_path, monkeypatch, error
):
    score = benchmark.score_category

    def fail_at_the_second(task, *arguments):
        if task.category != "bottle":
            raise error
        return score(task, *arguments)

    monkeypatch.setattr(benchmark, "at_most_every", lambda *_: lambda: None)  # not due yet
    monkeypatch.setattr(benchmark, "score_category", fail_at_the_second)
    with pytest.raises(type(error)) as caught:
        run(replace(mvtec_settings, shots=(0,), heatmaps="none", result_dir=str(tmp_path)))
    assert error in (caught.value, caught.value.__cause__)
    assert pd.read_csv(tmp_path / "metrics.csv")["category"].unique().tolist() == ["bottle"]
    assert "bottle" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "public"}, "--protocol was paper, now public; --templates was paper, now"),
        ({"shots": (0, 1)}, "--shots was 0 1 2, now 0 1:"),
        ({"eval_size": 120}, "--eval-size was 240, now 120:"),
        ({"limit": 1}, "--limit was None, now 1:"),
    ],
)
def test_results_of_other_settings_are_not_mixed(mvtec_result, mvtec_settings, change, message):
    before = contents(mvtec_result)
    with pytest.raises(InputError) as caught:
        run(replace(mvtec_settings, **change))
    assert str(caught.value).startswith(message)
    assert "choose another result folder with --result-dir" in str(caught.value)
    assert contents(mvtec_result) == before


def test_only_a_folder_with_results_is_bound_to_its_settings(tmp_path):
    folder = new_folder(tmp_path)
    (tmp_path / "run.log").write_text("interrupted")
    record, settings_json = folder.record, tmp_path / "settings.json"
    ResultFolder(tmp_path, record, {"split_sha256": "other"})
    assert json.loads(settings_json.read_text())["fingerprint"] == {"split_sha256": "other"}
    write_text(tmp_path / "scores/bottle.npz", "of an unfinished category")
    with pytest.raises(InputError, match=r"or delete .*, which holds the results from before"):
        ResultFolder(tmp_path, record, {"split_sha256": "third"})
    write_text(tmp_path / "features/features.json", "{}")
    with pytest.raises(InputError, match=r"--result-dir .with --features .* kept there") as caught:
        ResultFolder(tmp_path, record, {"split_sha256": "third"})
    assert "delete" not in str(caught.value)
    assert json.loads(settings_json.read_text())["fingerprint"] == {"split_sha256": "other"}


@pytest.mark.parametrize("text", ["{}", "[]"])
def test_a_foreign_settings_file_is_refused(mvtec_settings, tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(
        InputError, match=r"settings\.json is damaged, or was not written by a run of this version"
    ):
        run(replace(mvtec_settings, result_dir=str(tmp_path)))
    assert (tmp_path / "settings.json").read_text() == text


def test_seconds_add_up_over_all_runs_into_a_folder(mvtec_settings, tmp_path):
    def record_after(**changes) -> dict:
        run(replace(mvtec_settings, heatmaps="none", result_dir=str(tmp_path), **changes))
        return json.loads((tmp_path / "settings.json").read_text())

    first, second = record_after(categories=("bottle",)), record_after()
    assert second["seconds_total"] > first["seconds_total"]
    for stage in ("start-up", "text", "encode", "metrics"):
        assert second["seconds"][stage] > first["seconds"][stage]


def test_a_limit_takes_the_first_images_of_each_defect(mvtec_settings, tmp_path):
    summary = run(replace(mvtec_settings, limit=1, heatmaps="none", result_dir=str(tmp_path)))
    assert "LIMIT = 1" in summary
    scores = load_scores(tmp_path / "scores/bottle.npz")
    assert scores.image.tolist() == [f"bottle/test/{d}/000.png" for d in ("good", "crack", "hole")]
    assert not (tmp_path / "heatmaps").exists()


def test_image_metrics_are_undefined_without_good_images(mvtec_settings, tmp_path):
    header, *lines = Path(mvtec_settings.split).read_text().splitlines()
    anomalous = [line for line in lines if "/test/good/" not in line]
    split = tmp_path / "mvtec.csv"
    split.write_text("\n".join([header, *anomalous]) + "\n")
    changes = {"split": str(split), "shots": (0, 1), "heatmaps": 1}
    assert "n/a" in run(replace(mvtec_settings, **changes, result_dir=str(tmp_path / "r")))
    table = pd.read_csv(tmp_path / "r/metrics.csv")
    assert table[table["metric"].str.startswith("image")]["value"].isna().all()
    assert table[table["metric"].str.startswith("pixel")]["value"].notna().all()


def test_images_that_are_not_square_are_scored_in_tiles(visa_result):
    scores = load_scores(visa_result / "scores/capsules.npz")
    assert scores.tiles.tolist() == [[1, 2]] * 6
    assert scores.maps.shape == (RUNS, 12, 15, 15)
    assert scores.size.tolist() == [[96, 144]] * 6
    with Image.open(visa_result / "heatmaps/capsules/anomaly/000.png") as panel:
        assert panel.width > 5 * 256 * 1.4  # five images at their own aspect


def test_large_images_are_scored_in_a_grid_of_tiles(visa_settings, tmp_path):
    run(replace(visa_settings, tile=48, heatmaps=1, result_dir=str(tmp_path)))
    scores = load_scores(tmp_path / "scores/capsules.npz")
    assert scores.tiles.tolist() == [[3, 4]] * 6  # of 96 x 144 pixels
    assert scores.tile_side.tolist() == [48] * 6
    assert scores.maps.shape == (RUNS, 72, 15, 15)
    assert pd.read_csv(tmp_path / "metrics.csv")["value"].notna().all()


@pytest.mark.parametrize(("maximum", "expected"), [(True, [3, 5]), (False, [2, 3.5])])
def test_an_image_score_is_the_mean_or_the_maximum_over_its_tiles(maximum, expected):
    pixels, empty = torch.empty(2, 3, 1, 1), torch.empty(0)
    items = [Item(name, pixels, (1, 2), empty, (1, 2), empty.byte()) for name in "ab"]
    scores, maps = np.array([[1.0, 3, 5, 2]], np.float32), np.zeros((1, 4, 1, 1), np.float32)
    results = split_by_image(items, scores, maps, maximum)
    assert [result.scores.tolist() for result in results] == [[score] for score in expected]


def test_tiles_are_refused_where_images_are_squashed(visa_settings):
    with pytest.raises(InputError, match="TILE = 48: squashed images have no tiles"):
        run(replace(visa_settings, tile=48, protocol="public"))


@pytest.mark.parametrize("eval_size", [240, "source"])
def test_the_public_protocol_squashes(visa_settings, tmp_path, eval_size):
    run(replace(visa_settings, protocol="public", eval_size=eval_size, result_dir=str(tmp_path)))
    scores = load_scores(tmp_path / "scores/capsules.npz")
    assert scores.tiles.tolist() == [[1, 1]] * 6
    assert pd.read_csv(tmp_path / "metrics.csv")["value"].notna().all()


def test_several_evaluation_sizes_are_those_of_separate_runs(visa_settings, visa_result, tmp_path):
    settings = replace(visa_settings, heatmaps="none", extra_metrics=True)
    folders = {size: tmp_path / str(size) for size in ("all", "source")}
    run(replace(settings, eval_size=(240, 96, "source"), result_dir=str(folders["all"])))
    run(replace(settings, eval_size="source", result_dir=str(folders["source"])))
    tables = {
        name: pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False)
        for name, folder in {**folders, "plain": visa_result}.items()
    }
    every, alone = tables["all"], tables["source"]
    assert set(alone["metric"]) == set(METRICS + EXTRA_METRICS)
    first = every[every["metric"].isin(METRICS)].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, tables["plain"])
    alone = alone[~alone["metric"].isin(IMAGE_METRICS)].reset_index(drop=True)
    for size in ("96", "source"):  # the shorter side is 96: the same shape
        further = every[every["metric"].str.endswith(f"@{size}")].reset_index(drop=True)
        further["metric"] = further["metric"].str.removesuffix(f"@{size}")
        pd.testing.assert_frame_equal(further, alone)
    for name in ("scores/capsules.npz", "scores/capsules.csv", "shots.csv"):
        assert (folders["all"] / name).read_bytes() == (visa_result / name).read_bytes()


@pytest.mark.slow
def test_a_backbone_of_the_papers_width_runs_on_real_images(shared_data, mvtec_settings, tmp_path):
    options = Options(shared_data / "mvtec", splits_folder=tmp_path, allow_incomplete=True)
    split, _ = prepare(mvtec.MVTEC, options)
    header, *lines = split.read_text().splitlines()
    few = [line for line in lines if "/train/good/" in line or "/hole/" in line]
    split.write_text("\n".join([header, *few]) + "\n")
    config = open_clip.get_model_config("ViT-B-16-plus-240")
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 3  # of 12, for speed
    model = tmp_path / "paper.json"
    model.write_text(json.dumps(config))
    changes = {"shots": (0, 1), "seeds": (0,), "model": str(model), "limit": 1}
    settings = replace(mvtec_settings, data_root=str(options.data_root), split=str(split))
    run(replace(settings, categories=("hazelnut",), **changes, result_dir=str(tmp_path / "r")))
    scores = load_scores(tmp_path / "r/scores/hazelnut.npz")
    assert scores.maps.shape == (2, 1, 15, 15)
    assert (scores.maps.reshape(2, -1).std(axis=1) > 1e-4).all()  # no map is constant
    seconds = json.loads((tmp_path / "r/settings.json").read_text())["seconds"]
    assert seconds["score"] < 0.05 * seconds["encode"]


def test_results_are_not_written_into_the_data_root(mvtec_settings):
    same = replace(mvtec_settings, result_dir=mvtec_settings.data_root)
    with pytest.raises(InputError, match=r"RESULT_DIR: .* is the data root; choose another"):
        plan_benchmark(same)


def test_a_reference_that_is_also_a_test_image_is_noted_or_refused(mvtec_settings, tmp_path):
    """The files are copies under other names, as in a split made by hand."""
    root = Path(shutil.copytree(mvtec_settings.data_root, tmp_path / "raw"))
    shutil.copy(root / "bottle/train/good/000.png", root / "bottle/test/good/001.png")
    settings = replace(mvtec_settings, data_root=str(root), shots=(0, 4), seeds=(0,)).resolve()
    (note,) = [note for note in plan_benchmark(settings).notes if "REFERENCES" in note]
    assert "test images that are also reference images: 1, such as bottle/test/good/001.png" in note
    (task, _) = plan_benchmark(settings).tasks
    rows = reference_rows("bottle", task.shot_settings)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(tmp_path / "shots.csv", index=False)
    changes = {"references": str(tmp_path / "shots.csv"), "categories": ("bottle",)}
    with pytest.raises(InputError, match=r"REFERENCES: test images that .*good/001.png"):
        plan_benchmark(replace(settings, **changes))
    plan_benchmark(replace(settings, **changes, data_root=mvtec_settings.data_root))

"""Whole runs of the real scripts, on small pictures and a small CLIP with random weights."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets import mvtec
from datasets.prepare import Options, prepare
from datasets.splits import read_split
from models.encoder import WindowedEncoder
from tests.benches import RUNS, SEEDS, SHOTS, contents, small_mvtec, small_visa
from utils.errors import InputError
from utils.evaluation.metrics import METRICS
from utils.results.scores import load_scores
from utils.run import benchmark
from utils.run.benchmark import run
from utils.run.settings import Settings


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Settings:
    """Settings of a small MVTec AD."""
    return small_mvtec(tmp_path_factory.mktemp("bench") / "mit Leerzeichen")


@pytest.fixture(scope="module")
def done(bench) -> Path:
    """The result folder of one finished run."""
    run(bench)
    return bench.result_folder


def test_a_run_writes_everything_it_promises(done):
    names = set(contents(done))
    assert {"metrics.csv", "summary.csv", "summary.md", "shots.csv"} <= names
    for category in ("bottle", "metal_nut"):
        assert f"scores/{category}.npz" in names
        assert f"scores/{category}.csv" in names
        panels = {name for name in names if name.startswith(f"heatmaps/{category}/")}
        assert len(panels) == 3 + 2 * 2
        assert f"heatmaps/{category}/crack/001.png" in panels
    assert not [name for name in names if name.endswith(".part")]


def test_metrics_have_a_row_for_every_run_and_metric(done):
    table = pd.read_csv(done / "metrics.csv")
    assert list(table.columns) == ["category", "shots", "seed", "metric", "value"]
    assert len(table) == 2 * RUNS * len(METRICS)
    assert table["value"].between(0, 1).all()
    assert table[table["shots"] == 0]["seed"].isna().all()
    assert sorted(table[table["shots"] == 2]["seed"].unique()) == list(SEEDS)


def test_scores_hold_all_runs_of_all_images(done, bench):
    scores = load_scores(done / "scores" / "bottle.npz")
    rows = [s for s in read_split(Path(bench.split)) if s.class_name == "bottle"]
    tests = [sample for sample in rows if sample.split == "test"]
    assert scores.image.tolist() == [sample.image for sample in tests]
    assert scores.label.tolist() == [sample.label for sample in tests]
    assert scores.shots.tolist() == [0, 1, 1, 2, 2]
    assert scores.seed.tolist() == [-1, 0, 1, 0, 1]
    assert scores.maps.shape == (RUNS, len(tests), 15, 15)
    assert scores.image_scores.shape == (RUNS, len(tests))
    assert np.unique(scores.maps[0, 0]).size > 100  # a map, not a constant
    table = pd.read_csv(done / "scores" / "bottle.csv")
    assert table["2-shot seed 1"].to_numpy(np.float32).tolist() == scores.image_scores[4].tolist()


def test_settings_say_everything_a_result_depends_on(done, bench):
    record = json.loads((done / "settings.json").read_text())
    assert record["settings"]["shots"] == list(SHOTS)
    assert record["identity"]["temperature"] == 0.07
    assert len(record["identity"]["split_sha256"]) == 64
    assert {"torch", "open_clip_torch", "numpy", "python"} <= set(record["versions"])
    stages = {"start-up", "text", "decode", "encode", "score", "metrics", "write", "heatmaps"}
    assert set(record["seconds"]) == stages | {"report"}
    assert record["git_revision"]
    assert record["weights"]["description"] == "random weights (seed 0)"


def test_random_weights_are_announced_in_every_output(done, bench, capsys):
    assert "RANDOM WEIGHTS" in (done / "summary.md").read_text()
    assert "RANDOM WEIGHTS" in (done / "report.html").read_text()
    assert "RANDOM WEIGHTS" in json.loads((done / "settings.json").read_text())["notes"][0]
    assert "RANDOM WEIGHTS" in run(bench)
    assert "RANDOM WEIGHTS" in capsys.readouterr().out
    with Image.open(done / "heatmaps/bottle/good/000.png") as panel:
        red = (np.asarray(panel)[:80] == (185, 28, 28)).all(axis=-1)
    assert red.sum() > 100  # the note, in its own colour, above the pictures


def test_the_paper_stands_beside_ours(done):
    table = pd.read_csv(done / "summary.csv").set_index(["category", "shots", "metric"])
    row = table.loc[("bottle", 0, "pixel_auroc")]
    assert (row["paper"], row["public"]) == (89.5, 85.7)
    text = (done / "summary.md").read_text()
    assert "| bottle" in text
    assert "No published mean" in text


def test_every_distinct_image_is_encoded_exactly_once(bench, tmp_path, monkeypatch):
    encoded = []
    original = WindowedEncoder.encode_images

    def count(self, pixels):
        encoded.extend(one.sum().item() for one in pixels)
        return original(self, pixels)

    monkeypatch.setattr(WindowedEncoder, "encode_images", count)
    run(replace(bench, result_dir=str(tmp_path)))
    shots = pd.read_csv(tmp_path / "shots.csv")
    tests = [s for s in read_split(Path(bench.split)) if s.split == "test"]
    assert len(shots) == 2 * 2 * (1 + 2)  # categories x seeds x (1-shot and 2-shot)
    assert len(encoded) == len(set(encoded)) == shots["image"].nunique() + len(tests)


def test_a_rerun_skips_what_is_done_and_changes_no_byte(done, bench, monkeypatch, capsys):
    before = contents(done)
    monkeypatch.setattr(WindowedEncoder, "encode_images", None)  # would fail if it were called
    run(bench)
    assert "bottle: done before, skipped" in capsys.readouterr().out
    assert contents(done) == before


def test_batch_size_workers_and_the_order_of_the_split_change_no_byte(done, bench, tmp_path):
    header, *lines = Path(bench.split).read_text().splitlines()
    random.Random(0).shuffle(lines)
    shuffled = tmp_path / "mvtec.csv"
    shuffled.write_text("\n".join([header, *lines]) + "\n")
    other = replace(
        *(bench,), batch_size=1, num_workers=2, split=str(shuffled), result_dir=str(tmp_path / "r")
    )
    run(other)
    assert contents(tmp_path / "r") == contents(done)


def test_a_given_list_of_references_is_used(done, bench, tmp_path):
    given = replace(bench, references=str(done / "shots.csv"), result_dir=str(tmp_path / "a"))
    run(given)
    assert contents(tmp_path / "a") == contents(done)
    table = pd.read_csv(done / "shots.csv")
    table["seed"] = 1 - table["seed"]  # the two seeds' draws, changed over
    table.to_csv(tmp_path / "swapped.csv", index=False)
    run(replace(given, references=str(tmp_path / "swapped.csv"), result_dir=str(tmp_path / "b")))
    one = load_scores(done / "scores/bottle.npz").maps
    other = load_scores(tmp_path / "b/scores/bottle.npz").maps
    np.testing.assert_array_equal(one[[1, 2]], other[[2, 1]])


def test_categories_can_be_added_to_a_folder(done, bench, tmp_path):
    part = replace(bench, result_dir=str(tmp_path), categories=("metal_nut",))
    run(part)
    assert "bottle" not in (tmp_path / "shots.csv").read_text()
    run(replace(part, categories=()))
    assert contents(tmp_path) == contents(done)


def test_a_split_may_have_categories_of_its_own(bench, tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(Path(bench.split).read_text().replace("metal_nut,", "valve,"))
    told = run(replace(bench, split=str(own), shots=(0,), result_dir=str(tmp_path / "r")))
    assert (tmp_path / "r/scores/valve.csv").exists()
    assert "valve" in told
    summary = pd.read_csv(tmp_path / "r/summary.csv")
    assert summary.query("category in ['valve', 'mean']")["paper"].isna().all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_tables_of_a_growing_run_are_written_while_they_cost_little(
    bench, tmp_path, monkeypatch, share
):
    written = []
    monkeypatch.setattr(benchmark, "REPORT_SHARE", share)
    monkeypatch.setattr("utils.report.page.write_report", lambda *_: written.append(1))
    run(replace(bench, shots=(0,), heatmaps="none", result_dir=str(tmp_path)))
    assert len(written) == (2 if share else 1)  # after the first of two categories, and at the end
    assert "metal_nut" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol": "public"}, "templates: paper there, public now"),
        ({"shots": (0, 1)}, "shots:"),
        ({"eval_size": 120}, "eval_size: 240 there, 120 now"),
        ({"limit": 1}, "limit: None there, 1 now"),
    ],
)
def test_other_settings_are_not_mixed_into_a_folder(done, bench, change, told):
    before = contents(done)
    with pytest.raises(InputError) as caught:
        run(replace(bench, **change))
    assert told in str(caught.value)
    assert "choose another folder with RESULT_DIR (--result-dir)" in str(caught.value)
    assert contents(done) == before


@pytest.mark.parametrize("text", ["{}", "[]"])
def test_a_settings_file_of_no_run_is_one_sentence(bench, tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(InputError, match=r"settings\.json is not what a run writes; delete it"):
        run(replace(bench, result_dir=str(tmp_path)))
    assert (tmp_path / "settings.json").read_text() == text


def test_seconds_are_those_of_all_runs_into_the_folder(bench, tmp_path):
    def record_after(**changes) -> dict:
        run(replace(bench, heatmaps="none", result_dir=str(tmp_path), **changes))
        return json.loads((tmp_path / "settings.json").read_text())

    first, second = record_after(categories=("bottle",)), record_after()
    assert second["seconds_total"] > first["seconds_total"]
    for stage in ("start-up", "text", "encode", "metrics"):
        assert second["seconds"][stage] > first["seconds"][stage]


def test_a_limit_takes_the_first_of_each_defect_and_is_said(bench, tmp_path):
    text = run(replace(bench, limit=1, heatmaps="none", result_dir=str(tmp_path)))
    assert "LIMIT = 1" in text
    scores = load_scores(tmp_path / "scores/bottle.npz")
    assert scores.image.tolist() == [f"bottle/test/{d}/000.png" for d in ("good", "crack", "hole")]
    assert not (tmp_path / "heatmaps").exists()


def test_a_category_without_good_images_has_undefined_metrics_and_no_zeros(bench, tmp_path):
    header, *lines = Path(bench.split).read_text().splitlines()
    kept = [line for line in lines if "/test/good/" not in line]
    (tmp_path / "mvtec.csv").write_text("\n".join([header, *kept]) + "\n")
    text = run(replace(bench, split=str(tmp_path / "mvtec.csv"), result_dir=str(tmp_path / "r")))
    assert "n/a" in text
    table = pd.read_csv(tmp_path / "r/metrics.csv")
    assert table[table["metric"].str.startswith("image")]["value"].isna().all()
    assert table[table["metric"].str.startswith("pixel")]["value"].notna().all()


@pytest.fixture(scope="module")
def wide(tmp_path_factory, bench) -> Settings:
    """Settings of a small VisA."""
    return small_visa(tmp_path_factory.mktemp("visa"), bench)


def test_images_that_are_not_square_are_scored_in_tiles(wide, tmp_path):
    run(replace(wide, result_dir=str(tmp_path)))
    scores = load_scores(tmp_path / "scores/capsules.npz")
    assert scores.tiles.tolist() == [2] * 6
    assert scores.maps.shape == (RUNS, 12, 15, 15)
    assert scores.size.tolist() == [[96, 144]] * 6
    with Image.open(tmp_path / "heatmaps/capsules/anomaly/000.png") as panel:
        assert panel.width > 5 * 256 * 1.4  # five pictures at their own aspect


@pytest.mark.parametrize("eval_size", [240, "source"])
def test_the_public_protocol_squashes(wide, tmp_path, eval_size):
    run(replace(wide, protocol="public", eval_size=eval_size, result_dir=str(tmp_path)))
    scores = load_scores(tmp_path / "scores/capsules.npz")
    assert scores.tiles.tolist() == [1] * 6
    assert pd.read_csv(tmp_path / "metrics.csv")["value"].notna().all()


def test_metrics_at_the_source_size_are_those_of_that_size(wide, tmp_path):
    run(replace(wide, eval_size="source", heatmaps="none", result_dir=str(tmp_path / "s")))
    run(replace(wide, eval_size=96, heatmaps="none", result_dir=str(tmp_path / "96")))
    tables = [(tmp_path / name / "metrics.csv").read_text() for name in ("s", "96")]
    assert tables[0] == tables[1]  # the shorter side is 96: the same shape


@pytest.mark.slow
def test_the_papers_backbone_runs_on_real_images(shared_data, tmp_path):
    options = Options(shared_data / "mvtec", splits_folder=tmp_path, allow_incomplete=True)
    split, _ = prepare(mvtec.MVTEC, options)
    settings = Settings(
        *("mvtec", str(shared_data / "mvtec"), str(split), ("grid",)),
        shots=(0, 1),
        seeds=(0,),
        pretrained="random",
        limit=1,
        result_dir=str(tmp_path / "r"),
    )
    run(settings)
    scores = load_scores(tmp_path / "r/scores/grid.npz")
    assert scores.maps.shape == (2, 6, 15, 15)
    assert (scores.maps.reshape(12, -1).std(axis=1) > 1e-4).all()  # no map is constant
    seconds = json.loads((tmp_path / "r/settings.json").read_text())["seconds"]
    assert seconds["score"] < 0.05 * seconds["encode"]

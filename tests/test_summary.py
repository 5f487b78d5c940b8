"""Test tables and score files: hand-worked examples, published numbers, damaged and rerun files."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from datasets.official import OFFICIAL
from utils.errors import InputError
from utils.evaluation.metrics import METRICS
from utils.report.markdown import summary_page, write_summary_page
from utils.report.summary_tex import summary_tex
from utils.results.scores import NO_SEED, Scores, load_scores, save_scores, write_score_table
from utils.results.summary import (
    COLUMNS,
    PAPERS,
    dataset_name,
    load_published,
    load_sources,
    other_results,
    published_beside,
    published_for,
    read_summary,
    summarise,
    write_tables,
)

MVTEC, UNPUBLISHED = published_for("mvtec"), published_for("none")
VISA = [
    *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
    *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
]


def frame(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


def write_page(folder, rows, dataset, categories, notes=()):
    """Write all tables and summary.md; return its text."""
    write_tables(folder, rows, published_for(dataset), categories)
    record = {"title": "MVTec AD", "categories": categories, "notes": notes}
    record |= {"settings": {"dataset": dataset}, "draws_references": dataset != "custom"}
    (folder / "settings.json").write_text(json.dumps(record))
    return write_summary_page(folder)


def two_categories():
    """Return seeds of 80 and 90 % for bottle, 60 and 90 % for grid: seed means 70 and 90 %."""
    return frame(
        ("bottle", 1, 0, "image_auroc", 0.8),
        ("bottle", 1, 1, "image_auroc", 0.9),
        ("grid", 1, 0, "image_auroc", 0.6),
        ("grid", 1, 1, "image_auroc", 0.9),
    )


def row(summary, category, shots=1, metric="image_auroc"):
    rows = summary.query("category == @category and shots == @shots and metric == @metric")
    assert len(rows) == 1
    return rows.iloc[0]


def published(**criteria):
    rows = load_published()
    for name, value in criteria.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_mean_and_sample_deviation_are_over_seeds():
    summary = summarise(two_categories(), MVTEC, ["grid", "bottle", "wood"])
    assert row(summary, "bottle")["mean"] == pytest.approx(85)
    assert row(summary, "bottle")["std"] == pytest.approx(math.sqrt(50))
    assert row(summary, "bottle")["runs"] == 2


def test_mean_row_averages_categories_within_each_seed_first():
    summary = summarise(two_categories(), MVTEC, ["grid", "bottle", "wood"])
    assert row(summary, "mean")["mean"] == pytest.approx(80)
    assert row(summary, "mean")["std"] == pytest.approx(math.sqrt(200))  # of 70 and 90


def test_rows_follow_the_official_order_of_categories_and_metrics():
    rows = frame(
        ("bottle", 0, None, "pixel_aupro", 0.5),
        ("bottle", 0, None, "image_auroc", 0.5),
        ("grid", 0, None, "pixel_aupro", 0.5),
        ("grid", 0, None, "image_auroc", 0.5),
    )
    summary = summarise(rows, MVTEC, ["grid", "bottle"])
    assert list(summary["category"]) == ["grid"] * 2 + ["bottle"] * 2 + ["mean"] * 2
    assert list(summary["metric"]) == ["image_auroc", "pixel_aupro"] * 3


def test_a_group_has_a_mean_once_all_of_its_categories_are_finished():
    groups = {"both": ["bottle", "grid"], "more": ["grid", "wood"]}
    summary = summarise(two_categories(), MVTEC, ["bottle", "grid", "wood"], groups)
    assert row(summary, "mean of both")["mean"] == pytest.approx(80)  # seeds 70 and 90
    assert row(summary, "mean of both")["std"] == pytest.approx(math.sqrt(200))
    assert "mean of more" not in set(summary["category"])


def test_one_seed_has_no_deviation():
    summary = summarise(two_categories().query("seed == 0"), MVTEC, ["grid", "bottle"])
    assert math.isnan(row(summary, "bottle")["std"])


def test_published_numbers_match_their_sources():
    paper = dict(source=PAPERS["winclip"], dataset="mvtec")
    assert published(**paper, shots=0, category="mean", metric="image_auroc")["value"] == 91.8
    assert published(**paper, shots=0, category="bottle", metric="pixel_f1_max")["value"] == 58.1
    one_shot = published(**paper, shots=1, category="mean", metric="image_auroc")
    assert (one_shot["value"], one_shot["std"]) == (93.1, 2.0)
    anomalyclip = dict(source="winclip_by_anomalyclip_paper", dataset="mpdd")
    assert published(**anomalyclip, metric="pixel_aupro")["value"] == 48.9
    assert set(load_published()["metric"]) == set(METRICS)


def test_every_source_is_described_and_each_number_is_there_once():
    rows = load_published()
    assert set(rows["source"]) == set(load_sources())
    assert not rows.duplicated(["source", "dataset", "shots", "category", "metric"]).any()
    for facts in load_sources().values():
        assert facts["description"] and facts["link"].startswith("https://")


def test_the_closest_public_code_stands_beside_ours_and_the_others_are_counted():
    shown = published_for("mpdd").set_index(["shots", "metric"])
    zero_shot = shown.loc[(0, "image_auroc")]
    assert zero_shot["public_source"] == "winclip_by_anomalyclip_paper"
    assert (zero_shot["public"], zero_shot["other_sources"]) == (63.6, 1)  # AdaCLIP: 61.4
    assert shown.loc[(0, "pixel_aupro"), "other_sources"] == 0
    assert other_results("mpdd").query("shots == 2")["value"].tolist() == [72.5, 96.5]


def test_a_benchmark_named_after_a_dataset_has_its_published_numbers():
    name = dataset_name({"dataset": "folder", "name": "BTAD"})
    rows = other_results(name).query("metric == 'image_auroc' and method == 'winclip'")
    assert set(rows["value"]) == {68.2}
    assert other_results(dataset_name({"dataset": "folder", "name": "parts"})).empty


def test_each_method_stands_beside_its_own_paper(tmp_path):
    rows = frame(*[(name, 0, None, "image_auroc", 0.5) for name in VISA])
    shown = {}
    for method in ("winclip", "anomalyclip"):
        settings = {"dataset": "visa", "method": method}
        write_tables(tmp_path, rows, published_beside(settings), VISA)
        mean = row(read_summary(tmp_path), "mean", shots=0)
        shown[method] = mean["paper"], mean["public_source"], mean["other_sources"]
    assert shown["winclip"] == (78.1, "accurate_winclip", 1)  # VisualAD
    assert shown["anomalyclip"][0] == 82.1
    assert math.isnan(shown["anomalyclip"][1])
    record = {"title": "VisA", "categories": VISA, "notes": [], "draws_references": True}
    page = summary_page(read_summary(tmp_path), record | {"settings": settings})
    assert page.startswith("# AnomalyCLIP on VisA")
    assert "paper: Zhou et al., AnomalyCLIP (ICLR 2024)" in page
    assert "Other published 0-shot means: 4 sources, all of other methods" in page
    assert published_beside({"dataset": "mvtec", "method": "inctrl"}).empty  # VisA alone
    assert set(published_beside({"dataset": "visa", "method": "inctrl"})["shots"]) == {2, 4, 8}


def test_few_shot_scores_from_patch_tokens_have_a_name_of_their_own_and_no_published_numbers():
    settings = {"dataset": "mvtec", "maps": False}
    rows = frame(*[(n, s, None, "image_auroc", 0.5) for n in OFFICIAL["mvtec"] for s in (0, 1)])
    summary = summarise(rows, published_beside(settings), list(OFFICIAL["mvtec"]))
    assert row(summary, "mean", shots=0)["paper"] == 91.8
    assert math.isnan(row(summary, "mean", shots=1)["paper"])
    record = {"title": "MVTec AD", "categories": list(OFFICIAL["mvtec"]), "notes": []}
    record |= {"settings": settings, "draws_references": True}
    page, tex = summary_page(summary, record), summary_tex(summary, record, "r")
    assert "## 1-shot, patch tokens, 1 seed" in page and "## 0-shot\n" in page
    assert "Without maps, there are no pixel metrics." in page
    assert "Other published 0-shot means" in page and "Other published 1-shot means" not in page
    assert "WinCLIP on MVTec AD, 1-shot, patch tokens, 1 seed." in tex
    assert r"1, patch tokens & ours & 50.0 \\" in tex


def test_published_means_are_shown_only_beside_all_categories():
    def run(names):
        return frame(*[(name, 0, None, "image_auroc", 0.5) for name in names])

    whole = row(summarise(run(VISA), published_for("visa"), VISA), "mean", shots=0)
    assert (whole["paper"], whole["public"]) == (78.1, 75.5)
    assert whole["public_source"] == "accurate_winclip"
    incomplete = summarise(run(VISA[:-1]), published_for("visa"), VISA)
    assert math.isnan(row(incomplete, "mean", shots=0)["paper"])
    assert not math.isnan(row(incomplete, "candle", shots=0)["paper"])


def test_published_means_are_not_shown_beside_custom_categories():
    rows = frame(*[(name, 0, None, "image_auroc", 0.5) for name in ("bottle", "valve")])
    summary = summarise(rows, MVTEC, ["bottle", "valve"])
    assert math.isnan(row(summary, "mean", shots=0)["paper"])
    assert math.isnan(row(summary, "valve", shots=0)["paper"])
    assert row(summary, "bottle", shots=0)["paper"] > 0


def test_undefined_is_na_and_has_no_mean(tmp_path):
    rows = frame(
        ("bottle", 0, None, "image_aupr", math.nan),
        ("bottle", 0, None, "image_auroc", 0.9),
        ("grid", 0, None, "image_aupr", 0.9),
        ("grid", 0, None, "image_auroc", 0.9),
    )
    page = write_page(tmp_path, rows, "mvtec", ["bottle", "grid"])
    lines = [line.split("|") for line in page.split("##")[1].splitlines() if "|" in line]
    cells = {line[1].strip(): line[3].strip() for line in lines}
    assert (cells["bottle"], cells["grid"], cells["mean"]) == ("n/a", "90.0", "n/a")
    assert "No mean of image_aupr: undefined in 1 of 2 categories." in page
    assert "bottle,0,,image_aupr,\n" in (tmp_path / "metrics.csv").read_text()


def test_page_shows_notes_deviations_and_published_numbers(tmp_path):
    note = "Random weights: these numbers measure nothing"
    names = list(OFFICIAL["mvtec"])
    values = [(name, 1, seed, "image_auroc", (0.6, 0.9)[seed]) for name in names for seed in (0, 1)]
    values = [row for row in values if row[0] != "bottle"]
    rows = frame(*values, *[row for row in two_categories().values if row[0] == "bottle"])
    page = write_page(tmp_path, rows, "mvtec", names, [note])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    assert page.startswith(f"# WinCLIP on MVTec AD\n\n**{note}**")
    assert ["mean", "75.7 ± 20.3"] in lines  # (14 x 60 + 80) / 15 and 90: 61.3 and 90
    assert ["1", "paper", "93.1 ± 2.0"] in lines
    assert ["bottle", "paper", "98.2 ± 0.9"] in lines
    assert ["bottle", "ours", "85.0 ± 7.1"] in lines


def test_page_says_when_the_mean_is_over_fewer_categories(tmp_path):
    page = write_page(tmp_path, two_categories(), "mvtec", ["bottle", "grid", "wood"])
    assert "| mean of 2/3 |" in page
    assert "the published means are over all 3 categories, ours is over 2" in page
    assert "93.1 ± 2.0" not in page


def test_only_published_metrics_and_shots_are_compared(tmp_path):
    rows = frame(*[("tubes", k, s, m, 0.5) for k, s in [(0, None), (1, 0)] for m in METRICS])
    page = write_page(tmp_path, rows, "mpdd", ["tubes"])
    header, _, *body = [
        line for line in page.split("beside published")[1].splitlines() if "|" in line
    ]
    assert "pixel_aupro" in header and "pixel_f1_max" not in header
    assert all(line.startswith("| 0 ") for line in body)


def test_each_evaluation_size_has_a_table_and_other_sources_are_counted(tmp_path):
    names = ["tubes", "connector"]
    metrics = ["pixel_auroc@source", "pixel_auroc@400", "pixel_iou_max", "image_auroc"]
    rows = frame(*[(name, 2, 0, metric, 0.5) for name in names for metric in metrics])
    page = write_page(tmp_path, rows, "mpdd", names)
    headers = [line.split() for line in page.splitlines() if line.startswith("| category")]
    assert [[word for word in line if word != "|"][1:] for line in headers] == [
        ["image_auroc"],
        ["pixel_iou_max"],
        ["pixel_auroc@400"],
        ["pixel_auroc@source"],
    ]
    assert "At 400 pixels:\n\n| category" in page
    assert "Other published 2-shot means: 1 source, listed in report.html." in page
    summary = read_summary(tmp_path).set_index(["category", "metric"])["other_sources"]
    assert summary["mean", "image_auroc"] == 1
    assert math.isnan(summary["tubes", "image_auroc"])  # nothing is published for a category


def test_columns_of_the_page_are_aligned(tmp_path):
    page = write_page(tmp_path, two_categories(), "mvtec", ["grid", "bottle"])
    for block in page.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1


def test_rerun_and_row_order_change_no_byte(tmp_path):
    rows = two_categories()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_page(tmp_path / "a", rows, "mvtec", ["grid", "bottle"])
    write_page(tmp_path / "b", rows.iloc[::-1], "mvtec", ["grid", "bottle"])
    for name in ("metrics.csv", "summary.csv", "summary.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_summary_is_read_as_it_was_written(tmp_path):
    rows = frame(
        *[(name, 1, s, "image_auroc", (s + 1) / 3) for name in ("007", "NA") for s in (0, 1)]
    )
    write_tables(tmp_path, rows, UNPUBLISHED, ["NA", "007"])
    summary = read_summary(tmp_path)
    assert list(summary["category"]) == ["NA", "007", "mean"]
    assert list(summary["mean"]) == list(summarise(rows, UNPUBLISHED, ["NA", "007"])["mean"])
    assert summary["public_source"].isna().all()
    assert read_summary(tmp_path / "no labels").empty


def test_metrics_file_keeps_every_bit(tmp_path):
    values = [0.1 + 0.2, 1 / 3, np.nextafter(1, 0), 5e-324, math.nan]
    rows = frame(*[("bottle", 1, seed, "image_auroc", v) for seed, v in enumerate(values)])
    write_tables(tmp_path, rows, MVTEC, ["bottle"])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    read = [float(line.rsplit(",", 1)[1] or "nan") for line in lines]
    assert np.array(read).tobytes() == np.array(values).tobytes()


def test_zero_shot_has_an_empty_seed(tmp_path):
    write_tables(tmp_path, frame(("bottle", 0, None, "image_auroc", 0.5)), MVTEC, ["bottle"])
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1] == "bottle,0,,image_auroc,0.5"


def test_a_folder_that_cannot_be_written_raises_one_sentence(tmp_path):
    (tmp_path / "taken").write_text("a file where a folder is expected")
    with pytest.raises(InputError, match="cannot write"):
        write_tables(tmp_path / "taken", two_categories(), MVTEC, ["grid", "bottle"])
    with pytest.raises(InputError, match="cannot write"):
        save_scores(tmp_path / "taken" / "scores.npz", example_scores())


def example_scores(**changes):
    """Return two runs over a square image and a wide one of two tiles."""
    arrays = dict(
        image=np.array(["bottle/test/good/000.png", "bottle/test/größe/001.png"]),
        label=np.array([0, 1]),
        shots=np.array([0, 1]),
        seed=np.array([NO_SEED, 0]),
        image_scores=np.array([[0.1, 1 / 3], [0.2, 0.7]], np.float32),
        maps=np.linspace(0, 1, 2 * 3 * 4, dtype=np.float32).reshape(2, 3, 2, 2),
        tiles=np.array([[1, 1], [1, 2]]),
        tile_side=np.array([240, 240]),
        size=np.array([[240, 240], [240, 360]]),
    )
    return Scores(**{**arrays, **changes})


def test_scores_are_read_as_they_were_written_and_rewritten_to_the_same_bytes(tmp_path):
    scores = example_scores()
    save_scores(tmp_path / "a.npz", scores)
    save_scores(tmp_path / "b.npz", scores)
    read = load_scores(tmp_path / "a.npz")
    for name, array in vars(scores).items():
        assert np.array_equal(getattr(read, name), array)
        assert np.asarray(getattr(read, name)).dtype == np.asarray(array).dtype
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_maps_blur_and_variant_are_stored_only_if_there_are_any(tmp_path):
    save_scores(tmp_path / "plain.npz", example_scores())
    with np.load(tmp_path / "plain.npz") as archive:  # as files of earlier versions
        assert not {"blur", "variant"} & set(archive)
    save_scores(tmp_path / "a.npz", example_scores(maps=None, blur=0.25, variant="patch tokens"))
    read = load_scores(tmp_path / "a.npz")
    assert (read.maps, read.blur, read.variant) == (None, 0.25, "patch tokens")
    assert read.run_names() == ["0-shot", "1-shot seed 0, patch tokens"]
    assert read.rows([1]).maps is None and read.rows([1]).image_scores.shape == (2, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["image_scores", "maps"])
def test_scores_that_are_not_finite_raise_one_sentence(tmp_path, name, value):
    array = getattr(example_scores(), name).copy()
    array.flat[0] = value
    with pytest.raises(InputError, match="not all finite numbers"):
        save_scores(tmp_path / "a.npz", example_scores(**{name: array}))
    assert not list(tmp_path.iterdir())


def test_a_missing_or_damaged_score_file_raises_one_sentence(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(InputError, match="there is no score file"):
        load_scores(path)
    save_scores(path, example_scores())
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:300] + b"x" + whole[301:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz is damaged"):
            load_scores(path)


def test_score_table_has_a_column_per_run_in_full_float32(tmp_path):
    scores = example_scores()
    defects = dict(zip(scores.image.tolist(), ["good", "größe"], strict=True))
    write_score_table(tmp_path / "scores.csv", scores, defects)
    lines = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "image,label,defect,0-shot,1-shot seed 0",
        "bottle/test/good/000.png,0,good,0.1,0.2",
        "bottle/test/größe/001.png,1,größe,0.33333334,0.7",
    ]

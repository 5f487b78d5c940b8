"""Test the grid figure of a finished run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import mvtec
from datasets.prepare import Options, prepare
from tests.clips import write_config
from tests.layouts import make_mvtec
from tools import figure
from utils.errors import InputError
from utils.experiment.settings import Settings
from utils.results.scores import load_scores
from utils.run.benchmark import run


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """Return the result folder of a run on two categories with images that are not square."""
    folder = tmp_path_factory.mktemp("figure")
    root = make_mvtec(folder / "raw", size=(96, 144))
    split, _ = prepare(
        mvtec.MVTEC, Options(root, splits_folder=folder / "splits", allow_incomplete=True)
    )
    settings = Settings(
        dataset="mvtec",
        data_root=str(root),
        split=str(split),
        shots=(0, 2),
        seeds=(0, 1),
        model=str(write_config(folder, "small-figure", 240, 16, layers=2, width=32)),
        pretrained="random",
        num_workers=0,
        heatmaps="none",
        result_dir=str(folder / "result"),
    )
    run(settings)
    return folder / "result"


def test_rows_are_categories_and_columns_are_shots(done):
    path = figure.draw_figure(figure.Options((done,), cell=100))
    sheet = Image.open(path)
    images = 4 * 150 + 3 * figure.GAP  # image, ground truth, 0-shot, 2-shot, in their own aspect
    assert sheet.width == figure.MARGIN + figure.FONT_SIZE + figure.GAP + 4 + images + figure.MARGIN
    options = figure.Options((done,), ("bottle",), (0, 2), 100, done / "single row.png")
    single_row = Image.open(figure.draw_figure(options))
    assert sheet.height - single_row.height == 100 + figure.GAP


def test_the_notes_are_written_in_full_below_a_narrow_grid(done):
    notes = "; ".join(json.loads((done / "settings.json").read_text())["notes"])
    options = figure.Options((done,), ("bottle",), (0,), 100, done / "narrow.png")
    sheet = np.asarray(Image.open(figure.draw_figure(options))).astype(int)
    lines = figure.wrap_words(notes, figure.NOTE_SIZE, 3 * 150 + 2 * figure.GAP)
    assert len(lines) > 1
    below = sheet[-figure.NOTE_LINE * len(lines) - 4 :]
    red = below[..., 0] - below[..., 1] > 100
    assert red[:, : -figure.MARGIN].any() and not red[:, -figure.MARGIN :].any()
    rows = np.flatnonzero(red.any(axis=1))
    assert rows[-1] - rows[0] > figure.NOTE_LINE * (len(lines) - 1)


def test_the_image_of_median_score_is_shown(done):
    scores = load_scores(done / "scores" / "bottle.npz")
    index = figure.median_anomalous(scores, 0)
    anomalous = np.sort(scores.image_scores[0, scores.label == 1])
    assert scores.label[index] == 1
    assert scores.image_scores[0, index] == anomalous[len(anomalous) // 2]


def test_no_model_is_needed(done, monkeypatch):
    monkeypatch.setattr("models.clip.weights.load_clip", None)
    assert figure.draw_figure(figure.Options((done,), output=done / "again.png")).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": ("wood",)}, "no finished category"),
        ({"shots": (4,)}, "no 4-shot run; the result has 0, 2"),
    ],
)
def test_a_category_or_shots_that_the_run_lacks_raise_one_sentence(done, options, message):
    with pytest.raises(InputError, match=message):
        figure.draw_figure(figure.Options((done,), **options))


def test_several_results_are_columns_on_the_same_images(done, tmp_path):
    other = shutil.copytree(done, tmp_path / "other protocol with a very long name", symlinks=True)
    path = other / "scores" / "bottle.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    order = np.arange(len(arrays["image"]))[::-1]  # images and square tiles in another order
    per_image = ("image", "label", "tiles", "tile_side", "size")
    arrays |= {name: arrays[name][order] for name in per_image}
    arrays["image_scores"] = arrays["image_scores"][:, order]
    tiles = np.split(np.arange(arrays["maps"].shape[1]), len(order))
    arrays["maps"] = arrays["maps"][:, np.concatenate([tiles[index] for index in order])]
    np.savez_compressed(path, **arrays)
    options = figure.Options((done, other), ("bottle",), (0,), 100, tmp_path / "two.png")
    sheet = np.asarray(Image.open(figure.draw_figure(options)))
    left = figure.MARGIN + figure.FONT_SIZE + figure.GAP + 4
    starts = [left + column * (150 + figure.GAP) for column in (2, 3)]
    header = figure.MARGIN + figure.HEADER_HEIGHT + figure.FONT_SIZE + 4
    one, two = (sheet[header : header + 100, start : start + 150] for start in starts)
    assert one.std() > 10
    np.testing.assert_array_equal(one, two)
    arrays["image"] = np.char.add("other/", arrays["image"])
    np.savez_compressed(path, **arrays)
    with pytest.raises(InputError, match="give results on the same images"):
        figure.draw_figure(options)


def test_a_run_without_maps_raises_one_sentence(tmp_path, done):
    record = json.loads((done / "settings.json").read_text())
    record["settings"]["maps"] = False
    shutil.copytree(done / "done", tmp_path / "done")
    (tmp_path / "settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="was run without maps, which the figure shows"):
        figure.draw_figure(figure.Options((done, tmp_path), ("bottle",)))


@pytest.mark.parametrize("split", ["", "moved.csv"])
def test_a_run_without_a_split_raises_one_sentence(tmp_path, done, split):
    record = json.loads((done / "settings.json").read_text())
    record["settings"]["split"] = split
    (tmp_path / "settings.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="has no split file"):
        figure.draw_figure(figure.Options((tmp_path,)))


def test_a_folder_without_a_run_raises_one_sentence(tmp_path, done):
    with pytest.raises(InputError, match=r"settings\.json"):
        figure.draw_figure(figure.Options((tmp_path,)))
    shutil.copy(done / "settings.json", tmp_path)
    with pytest.raises(InputError, match="no finished category"):
        figure.draw_figure(figure.Options((tmp_path,)))

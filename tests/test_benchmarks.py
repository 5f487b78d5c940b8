"""Check that benchmarks print their tables, and that the encoder's limit has its products."""

import json
import sys
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import run_demo
from benchmarks import memory, precision
from benchmarks.encoder import products_of
from models.clip.encoder import WindowedEncoder
from tests import scripts
from tests.clips import small_clip, write_config


def printed(script: str, folder: Path, *options: object) -> str:
    """Return what a quick benchmark prints."""
    done = scripts.start(f"benchmarks/{script}", "--quick", *options, cwd=folder).finish()
    assert done.returncode == 0, done.stderr
    return done.stdout


def model_options(folder: Path) -> list[object]:
    """Return the options for a small model on the CPU."""
    model = write_config(folder, "to-measure", 240, 16, layers=2, width=32)
    return ["--device", "cpu", "--model", model]


@pytest.mark.slow
def test_the_encoder_is_timed_beside_its_products_and_the_text_beside_open_clips(tmp_path):
    lines = printed("encoder.py", tmp_path, *model_options(tmp_path)).splitlines()
    row = next(line.split() for line in lines if line.startswith("fp32"))
    ours, limit, share = (float(word) for word in row[2:5])
    assert ours > 0 and share == pytest.approx(limit / ours, abs=0.6 * share)  # of rounded ones
    assert any("fp16" in line and "left out" in line for line in lines)
    assert any(line.startswith("WinCLIP without maps") for line in lines)
    assert any(line.startswith("the image embeddings with and without maps") for line in lines)
    assert "242 prompts of a category" in lines[-1]


def test_the_predicted_memory_grows_with_the_tiles_and_halves_in_half_precision(tmp_path, capsys):
    model = write_config(tmp_path, "to-predict", 240, 16, layers=2, width=32)
    with mock.patch.object(sys, "argv", ["memory.py", "--model", str(model)]):
        memory.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[0] == ["tiles", "1", "2", "4", "8", "16", "32"]
    (fp32, *full), (fp16, *half) = rows[1:]
    assert (fp32, fp16) == ("fp32", "fp16")
    full, half = (list(map(int, row)) for row in (full, half))
    assert full == sorted(full) and all(a > b for a, b in zip(full, half, strict=True))
    # The weights cancel out; the tiles stay in fp32.
    assert (half[-1] - half[0]) / (full[-1] - full[0]) == pytest.approx(0.5, abs=0.1)


def test_a_precision_is_compared_in_time_scores_and_metrics(mvtec_result):
    record = json.loads((mvtec_result / "settings.json").read_text())
    images = {
        image for path in mvtec_result.glob("scores/*.csv") for image in pd.read_csv(path)["image"]
    }
    references = pd.read_csv(mvtec_result / "shots.csv")["image"].unique()
    each = record["seconds"]["encode"] / (len(images) + len(references))
    text = precision.compare(mvtec_result, mvtec_result, random=False)
    assert f"{each:.3f} s an image in the encoder, fp32 {each:.3f} (1.00 times as fast)" in text
    assert "image scores change by at most 0.0e+00, maps by 0.0e+00; metrics, in points" in text
    assert "pixel_aupro" in text
    assert text.startswith(precision.compare(mvtec_result, mvtec_result, random=True) + "; metrics")


def test_precisions_are_compared_with_maps_whatever_the_runner_says(monkeypatch, capsys):
    constants = {"MAPS": False, "PRECISION": "bf16", "DATA_ROOT": "data/demo"}
    for name, value in constants.items():
        monkeypatch.setattr(run_demo, name, value)
    runs = []
    monkeypatch.setattr(precision, "render_if_needed", lambda root: None)
    monkeypatch.setattr(precision, "run", lambda settings, folder: runs.append(settings))
    monkeypatch.setattr(precision, "compare", lambda *_: "equal")
    monkeypatch.setattr(sys, "argv", ["precision.py"])
    precision.main()
    assert runs[0].precision == "fp32" and all(settings.maps for settings in runs)
    assert {f"{run.precision}: equal" for run in runs[1:]} <= set(
        capsys.readouterr().out.split("\n")
    )


@pytest.mark.slow
def test_the_table_adds_up_its_times(tmp_path):
    text = printed("table.py", tmp_path, *model_options(tmp_path), "--images", 3)
    assert "16 results of 3 test images" in text
    assert "passes of ours" in text and "one run" in text


@pytest.mark.slow  # not run with the oldest torch, which counts nothing in inference mode
def test_the_limit_has_the_products_of_the_encoder_and_no_others(tmp_path):
    clip = small_clip(tmp_path, layers=4)
    encoder = WindowedEncoder(clip.model.visual)
    with FlopCounterMode(display=False) as counter:
        encoder.encode_images(torch.randn(1, 3, clip.image_size, clip.image_size))
    counted = counter.get_flop_counts()["Global"]
    products = {torch.ops.aten.addmm, torch.ops.aten.mm, torch.ops.aten.convolution}
    linear = sum(count for operation, count in counted.items() if operation in products)
    sequences, width = 1 + 196 + 169, 64
    # The last block folds queries and projects values head by head, as batched products.
    batched = 2 * (2 * sequences * width * width)
    expected = sum(2 * rows * inputs * outputs for rows, inputs, outputs in products_of(encoder, 1))
    assert linear + batched == expected


def test_the_metrics_are_timed_and_equal_scikit_learns(tmp_path):
    text = printed("metrics.py", tmp_path)
    assert "16 images of 240x240" in text
    lines = [line for line in text.splitlines() if line.startswith("scikit-learn  ")]
    assert len(lines) == 2  # a table for each kind of scores
    assert all(float(line.split()[-1]) < 1e-12 for line in lines)  # the difference from ours

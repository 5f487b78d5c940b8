"""Compare whole runs on a real GPU with the same runs on the CPU; skipped without a GPU.

WINCLIP_TEST_CUDA=1 python -m pytest tests/test_cuda.py tests/test_cuda_runs.py
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models import anomalyclip
from tests.benches import contents
from tests.clips import write_config
from utils.ablation.run import run as run_ablation
from utils.ablation.settings import AblationSettings
from utils.experiment.settings import Settings
from utils.results.scores import load_scores
from utils.run.benchmark import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
BOUND = 1e-4  # a temperature of 0.07 multiplies differences between cosines by 14


def assert_scores_agree(folder: Path, expected: Path, bound: float = BOUND) -> None:
    """Compare the image scores and maps of two result folders."""
    paths = sorted(expected.glob("scores/*.npz"))
    assert paths
    for path in paths:
        first, second = load_scores(folder / "scores" / path.name), load_scores(path)
        np.testing.assert_allclose(first.image_scores, second.image_scores, atol=bound)
        assert (first.maps is None) == (second.maps is None)
        if first.maps is not None:
            np.testing.assert_allclose(first.maps, second.maps, atol=bound)


def run_on(device: str, settings: Settings, folder: Path, **changes: object) -> Path:
    """Run on a device; return the result folder."""
    run(replace(settings, device=device, result_dir=str(folder), **changes))
    return folder


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_gives_the_scores_of_the_cpu(tmp_path, mvtec_settings, mvtec_result, deterministic):
    folders = [tmp_path / name for name in ("first", "second")[: 1 + deterministic]]
    try:
        for folder in folders:
            run_on("cuda", mvtec_settings, folder, deterministic=deterministic)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_scores_agree(folders[0], mvtec_result)
    if deterministic:
        first, second = map(contents, folders)
        assert first == second


CROPS = {"multi_crop": "five", "categories": ("bottle",)}


@pytest.mark.parametrize(
    "changes", [{"maps": False}, CROPS, CROPS | {"multi_crop_average": "scores"}]
)
def test_scores_alone_and_multi_crop_agree_with_the_cpu(tmp_path, mvtec_settings, changes):
    cpu, cuda = (run_on(d, mvtec_settings, tmp_path / d, **changes) for d in ("cpu", "cuda"))
    assert_scores_agree(cuda, cpu)


@pytest.mark.parametrize(("stored", "bound"), [("fp32", BOUND), ("fp16", 2e-2)])
def test_kept_features_give_the_scores_of_the_run_that_kept_them(
    tmp_path, mvtec_settings, mvtec_result, stored, bound
):
    settings = replace(mvtec_settings, features_precision=stored)
    kept = run_on("cuda", settings, tmp_path / "kept", features="keep")
    again = run_on("cuda", settings, tmp_path / "again", features=str(kept))
    assert_scores_agree(again, kept, bound=0)
    assert_scores_agree(kept, mvtec_result, bound)


@pytest.mark.parametrize(
    ("method", "shots", "model"),
    [
        ("anomalyclip", (0,), {"image_size": 224, "patch_size": 14, "layers": 3}),
        ("inctrl", (1, 2), {"image_size": 240, "patch_size": 16, "layers": 12}),
    ],
)
def test_other_methods_agree_with_the_cpu(
    tmp_path, mvtec_settings, monkeypatch, method, shots, model
):
    monkeypatch.setattr(anomalyclip, "VV_BLOCKS", 1)  # in place of 19 of 24 blocks
    changes = {
        "method": method,
        "checkpoint": "random",
        "model": str(write_config(tmp_path, f"small-{method}", width=32, **model)),
        "pretrained": "auto" if method == "inctrl" else "random",
        "shots": shots,
    }
    cpu, cuda = (run_on(d, mvtec_settings, tmp_path / d, **changes) for d in ("cpu", "cuda"))
    assert_scores_agree(cuda, cpu)


def test_an_ablation_gives_the_metrics_of_the_cpu(tmp_path, mvtec_settings):
    names = ("dataset", "data_root", "split", "model", "pretrained", "num_workers")
    shared = {name: getattr(mvtec_settings, name) for name in names}
    tables = []
    for device in ("cpu", "cuda"):
        settings = AblationSettings(
            **shared,
            shots=(0, 1),
            seeds=(0,),
            limit=2,
            multi_crops=("five",),
            device=device,
            result_dir=str(tmp_path / device),
        )
        run_ablation(settings)
        table = pd.read_csv(tmp_path / device / "ablation.csv")
        tables.append(table.select_dtypes("number"))
    np.testing.assert_allclose(*tables, atol=1e-3)

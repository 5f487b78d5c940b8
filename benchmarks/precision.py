"""What a faster precision costs in accuracy: scores and metrics of whole runs beside those in fp32.

    python benchmarks/precision.py [--quick] [--runner run_demo] [--pretrained FILE]
                                   [--categories NAME ...]

Runs the demo (or the benchmark of another runner, as it is prepared) 0-shot and 4-shot with one
seed in every precision that the device can compute, slow or not, and prints the largest change of
an image score and of a map, and how many percentage points each metric moves.
`--quick` takes 2 images of each defect and no references. Nothing is kept.
"""

import argparse
import datetime
import importlib
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd
import torch

from datasets.demo import render_if_needed
from models.device import check_precision, resolve_device
from utils.cli import run_cli
from utils.results.folder import describe_device
from utils.results.scores import load_scores
from utils.results.summary import MEAN
from utils.run import benchmark
from utils.run.settings import Settings

DATASETS = {"run_demo": "demo", "run_winclip": "mvtec", "run_visa": "visa", "run_mpdd": "mpdd"}
PRECISIONS = {"cpu": ("bf16",), "cuda": ("tf32", "bf16", "fp16")}
QUICK_LIMIT = 2


def run(settings: Settings, folder: str) -> Path:
    """Run in one precision; returns the result folder."""
    path = Path(folder) / settings.precision
    benchmark.run(Settings(**(vars(settings) | {"result_dir": str(path)})))
    return path


def largest_changes(one: Path, other: Path) -> tuple[float, float]:
    """Of image scores and of maps, over all categories and runs."""
    changes = []
    for path in sorted(one.glob("scores/*.npz")):
        ours, theirs = load_scores(path), load_scores(other / "scores" / path.name)
        images = np.abs(ours.image_scores - theirs.image_scores).max()
        changes.append((images, np.abs(ours.maps - theirs.maps).max()))
    return tuple(np.max(changes, axis=0))


def metric_changes(one: Path, other: Path) -> pd.DataFrame:
    """By metric: the change of the mean and the largest of a category, of every number of shots."""
    keys = ["category", "shots", "metric"]
    means = [pd.read_csv(folder / "summary.csv").set_index(keys)["mean"] for folder in (one, other)]
    change = (means[1] - means[0]).abs().rename("change").reset_index()
    grouped = change["category"].str.startswith(MEAN)
    by = ["shots", "metric"]
    of_means = change[change["category"] == MEAN].groupby(by, sort=False)["change"].max()
    of_any = change[~grouped].groupby(by, sort=False)["change"].max()
    return pd.DataFrame({"mean": of_means, "a category": of_any})


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runner", choices=DATASETS, default="run_demo")
    parser.add_argument("--pretrained", help="as the runner's option")
    parser.add_argument("--categories", nargs="*", default=(), help="as the runner's option")
    options = parser.parse_args()
    constants = vars(importlib.import_module(options.runner)).items()
    given = {name.lower(): value for name, value in constants if name.isupper()}
    given |= {"shots": (0, 4), "seeds": (0,), "heatmaps": "none", "quiet": True}
    given |= {"categories": tuple(options.categories)}
    given |= {"shots": (0,), "limit": QUICK_LIMIT} if options.quick else {}
    given |= {"pretrained": options.pretrained} if options.pretrained else {}
    if options.runner == "run_demo":
        render_if_needed(given["data_root"])
    device = resolve_device(given["device"])
    benchmark.check_precision = partial(check_precision, fast=False)  # here accuracy counts
    print(
        f"{options.runner}, {Path(given['pretrained']).name}, {describe_device(device)}, ", end=""
    )
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {datetime.date.today()}")
    with tempfile.TemporaryDirectory() as folder:
        exact = run(Settings(DATASETS[options.runner], **given), folder)
        for precision in PRECISIONS[device.type]:
            settings = Settings(DATASETS[options.runner], **(given | {"precision": precision}))
            other = run(settings, folder)
            images, maps = largest_changes(exact, other)
            print(
                f"\n{precision} against fp32: image scores {images:.1e}, maps {maps:.1e}; points:"
            )
            print(metric_changes(exact, other).to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    run_cli(main)

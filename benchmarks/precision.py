"""Measure what a faster precision costs in accuracy and saves in time: whole runs beside fp32.

    python benchmarks/precision.py [--quick] [--runner run_demo] [--pretrained FILE]
                                   [--categories NAME ...]

Runs the demo (or the prepared benchmark of another runner) 0-shot and 4-shot with one seed in every
precision, and prints the encoder's time per image, the largest change of an image score and of a
map, and the change of each metric in percentage points (not with random weights, whose metrics mean
nothing). A precision that the device does not support is left out, with the reason. `--quick` takes
2 images of each defect and no references. Writes only temporary files.
"""

import argparse
import datetime
import importlib
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import numpy as np
import pandas as pd
import torch

from datasets.demo import render_if_needed
from models.clip.device import check_precision, describe_device, resolve_device
from models.clip.weights import RANDOM
from models.methods import BACKBONES
from utils.cli import run_cli
from utils.errors import InputError
from utils.experiment.settings import Settings
from utils.results.folder import read_json
from utils.results.scores import load_scores
from utils.results.summary import MEAN
from utils.run import benchmark
from utils.stopwatch import GPU

DATASETS = {"run_demo": "demo", "run_winclip": "mvtec", "run_visa": "visa", "run_mpdd": "mpdd"}
PRECISIONS = ("tf32", "bf16", "fp16", "int8")
QUICK_LIMIT = 2


def run(settings: Settings, folder: str) -> Path:
    """Run in one precision; return the result folder."""
    path = Path(folder) / settings.precision
    benchmark.run(replace(settings, result_dir=str(path)))
    return path


def encoder_seconds(folder: Path) -> float:
    """Return the seconds per image, reference images included, that the encoder took."""
    seconds = read_json(folder / "settings.json", "seconds")["seconds"]
    images = set(pd.read_csv(folder / "shots.csv")["image"])
    for path in folder.glob("scores/*.npz"):
        images.update(load_scores(path).image)
    return seconds.get("encode" + GPU, seconds["encode"]) / len(images)


def largest_changes(exact: Path, other: Path) -> tuple[float, float]:
    """Return the largest change of image scores and of maps, over all categories and runs."""
    changes = []
    for path in sorted(exact.glob("scores/*.npz")):
        scores, others = load_scores(path), load_scores(other / "scores" / path.name)
        images = np.abs(scores.image_scores - others.image_scores).max()
        changes.append((images, np.abs(scores.maps - others.maps).max()))
    return tuple(np.max(changes, axis=0))


def metric_changes(exact: Path, other: Path) -> pd.DataFrame:
    """Return the change of the mean and the largest of a category, by shots and metric."""
    keys = ["category", "shots", "metric"]
    tables = [pd.read_csv(folder / "summary.csv") for folder in (exact, other)]
    means = [table.set_index(keys)["mean"] for table in tables]
    change = (means[1] - means[0]).abs().rename("change").reset_index()
    grouped = change["category"].str.startswith(MEAN)
    by = ["shots", "metric"]
    of_means = change[change["category"] == MEAN].groupby(by, sort=False)["change"].max()
    of_any = change[~grouped].groupby(by, sort=False)["change"].max()
    return pd.DataFrame({"mean": of_means, "a category": of_any})


def compare(exact: Path, other: Path, random: bool) -> str:
    """Describe the time of a result and its changes from fp32, without metrics if `random`."""
    seconds, exact_seconds = encoder_seconds(other), encoder_seconds(exact)
    images, maps = largest_changes(exact, other)
    text = (
        f"{seconds:.3f} s an image in the encoder, fp32 {exact_seconds:.3f} "
        f"({exact_seconds / seconds:.2f} times as fast); image scores change by at most "
        f"{images:.1e}, maps by {maps:.1e}"
    )
    if random:
        return text
    table = metric_changes(exact, other).to_string(float_format="{:.2f}".format)
    return f"{text}; metrics, in points:\n{table}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 images of each defect, 0-shot")
    parser.add_argument(
        "--runner", choices=DATASETS, default="run_demo", help="(default: run_demo)"
    )
    parser.add_argument("--pretrained", help="as the runner's option")
    parser.add_argument("--categories", nargs="*", default=(), help="(default: all)")
    options = parser.parse_args()
    constants = vars(importlib.import_module(options.runner)).items()
    given = {name.lower(): value for name, value in constants if name.isupper()}
    given |= {"shots": (0, 4), "seeds": (0,), "heatmaps": "none", "quiet": True}
    given |= {"features": "off"}  # each precision encodes all images
    # Whatever the runner's constants are:
    given |= {"method": "winclip", "checkpoint": "", "maps": True, "precision": "fp32"}
    given |= {"categories": tuple(options.categories)}
    given |= {"shots": (0,), "limit": QUICK_LIMIT} if options.quick else {}
    given |= {"pretrained": options.pretrained} if options.pretrained else {}
    if options.runner == "run_demo":
        render_if_needed(given["data_root"])
    settings = Settings(DATASETS[options.runner], **given)
    weights = BACKBONES["winclip"][1] if settings.pretrained == "auto" else settings.pretrained
    device = resolve_device(settings.device)
    print(f"{options.runner}, {Path(weights).name}, {describe_device(device)}, ", end="")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {datetime.date.today()}")
    with tempfile.TemporaryDirectory() as folder:
        exact = run(settings, folder)
        for precision in PRECISIONS:
            try:
                check_precision(device, precision)
            except InputError as error:
                print(f"\n{precision} left out: {error}")
                continue
            other = run(replace(settings, precision=precision), folder)
            print(f"\n{precision}: {compare(exact, other, weights == RANDOM)}")


if __name__ == "__main__":
    run_cli(main)

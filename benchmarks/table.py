"""Seconds for the paper's whole table of one category: one run, beside a pass per (shots, seed).

    python benchmarks/table.py [--quick] [--images N] [--model NAME] [--device DEVICE]

0, 1, 2 and 4 shots x 5 seeds are sixteen results. "one run" encodes every image once and scores all
of them from that, as the runners do; "separate passes" prepare the prompts and encode references
and test images again for each, as public implementations do; those of anomalib are timed too where
it is installed (with its token layout mended). Random weights and pixels: speed does not depend on
them. Decoding and metrics are left out of all; images go one at a time, also on CUDA, where runs
take several. The set-up of each way (prompts, references) is timed once, one test image in turn
with those of the other ways: the median, times the test images of a category. `--quick` times one
test image in place of five. Nothing is written.
"""

import argparse
import datetime
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor
from utils.run.process import reuse_freed_memory

from benchmarks.peers import anomalib_winclip
from datasets.references import ShotSetting, draw_references
from datasets.splits import Sample
from models.device import resolve_device, to_device
from models.encoder import WindowedEncoder
from models.prompts import prompt_ensemble
from models.weights import RANDOM, LoadedClip, load_clip
from models.winclip import Features, TextBank, VisualBank
from utils.cli import run_cli
from utils.results.folder import describe_device
from utils.run.inference import score_runs

SHOTS, SEEDS = (0, 1, 2, 4), (0, 1, 2, 3, 4)
PASSES = {shots: len(SEEDS) if shots else 1 for shots in SHOTS}
TRAIN = 200  # references are drawn from so many: about an MVTec AD category
IMAGES = 115  # MVTec AD's 1,725 test images in 15 categories
REPEATS, QUICK_REPEATS = 5, 1


class Ours:
    """Our encoder and scores: `runs` from one encoding of each image."""

    def __init__(self, clip: LoadedClip, image: Tensor, runs: Sequence[ShotSetting]):
        self.encoder = WindowedEncoder(clip.model, clip.tokenizer)
        self.image, self.text, self.bank = image, None, None
        images = sorted({name for run in runs for name in run.images})
        self.references = len(images)
        self.rows = [
            torch.tensor(np.searchsorted(images, run.images), device=image.device)
            if run.images
            else None
            for run in runs
        ]

    def set_up(self) -> None:
        """Prompts and references."""
        prompts = self.encoder.encode_states(*prompt_ensemble("bottle"))
        self.text = TextBank.from_prompts(*prompts, 0.07, True)
        features = [self.encoder.encode_images(self.image) for _ in range(self.references)]
        if features:
            self.bank = VisualBank.from_features(Features.concatenate(features))

    def score(self) -> None:
        """One test image."""
        score_runs(self.encoder.encode_images(self.image), self.text, self.bank, self.rows)


class Anomalib:
    """anomalib's model, its tokens mended, for one number of shots."""

    def __init__(self, clip: LoadedClip, name: str, image: Tensor, shots: int):
        self.peer = anomalib_winclip(clip, name)
        self.image, self.shots = image, shots

    def set_up(self) -> None:
        """Prompts and references."""
        references = [self.image] * self.shots
        self.peer.setup("bottle", torch.cat(references) if references else None)

    def score(self) -> None:
        """One test image."""
        self.peer(self.image)


def seconds_of(function: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def timed(ways: dict[str, "Ours | Anomalib"], repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds of each way's set-up and of one test image; one line for each."""
    device = next(iter(ways.values())).image.device
    with torch.inference_mode():
        set_up = {name: seconds_of(way.set_up, device) for name, way in ways.items()}
        images: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                images[name].append(seconds_of(way.score, device))
    return {name: (set_up[name], statistics.median(images[name])) for name in ways}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="ViT-B-16-plus-240", help="an open_clip model")
    parser.add_argument("--device", default="auto", help='"auto", "cpu", "cuda", "cuda:N"')
    parser.add_argument("--images", type=int, default=IMAGES, help="test images of the category")
    options = parser.parse_args()
    reuse_freed_memory()
    device = resolve_device(options.device)
    clip = load_clip(options.model, RANDOM)
    to_device(clip, device, "fp32")
    image = torch.randn(1, 3, clip.image_size, clip.image_size, device=device)
    train = [Sample("bottle", "train", 0, "good", f"{i:03}", "") for i in range(TRAIN)]
    runs = draw_references(train, SHOTS, SEEDS)
    ways: dict[str, Ours | Anomalib] = {"one run": Ours(clip, image, runs)}
    ways["one run"].encoder.encode_images(image)  # warms up: a device starts, memory is fetched
    first = {run.shots: run for run in reversed(runs)}
    ways |= {f"ours, {shots}-shot": Ours(clip, image, [first[shots]]) for shots in SHOTS}
    if importlib.util.find_spec("anomalib"):
        ways |= {
            f"anomalib, {shots}-shot": Anomalib(clip, options.model, image, shots)
            for shots in SHOTS
        }
    print(f"{options.model}, fp32, random weights; {describe_device(device)}")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {datetime.date.today()}\n")
    print_table(timed(ways, QUICK_REPEATS if options.quick else REPEATS), options.images)


def print_table(seconds: dict[str, tuple[float, float]], images: int) -> None:
    """What was timed, and what a category of `images` test images takes by that."""
    totals = {}
    print("                   set-up, s  a test image, s  times")
    for name, (set_up, image) in seconds.items():
        family, _, shots = name.partition(", ")
        times = PASSES[int(shots.removesuffix("-shot"))] if shots else 1
        print(f"{name:18} {set_up:10.2f} {image:16.3f} {times:6}")
        totals[family] = totals.get(family, 0.0) + times * (set_up + images * image)
    print(f"\n16 results of {images} test images")
    for family, total in totals.items():
        what = family if family == "one run" else f"passes of {family}"
        print(f"{what:18} {total:8.0f} s, {total / totals['one run']:.1f} times the one run")


if __name__ == "__main__":
    run_cli(main)

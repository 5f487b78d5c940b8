"""Time the paper's whole table for one category: one run, beside one pass per (shots, seed).

    python benchmarks/table.py [--quick] [--images N] [--model NAME] [--device DEVICE]

0-shot, and 1, 2 and 4 shots x 5 seeds, are sixteen results. "one run" encodes every image once and
scores all sixteen from that, as the runners do; "passes" prepare the prompts and encode references
and test images again for each, as public implementations do. Those of anomalib are timed too if it
is installed (with a corrected token layout). Weights and pixels are random, which does not affect
speed. Decoding and metrics are excluded. Images are encoded one at a time, also on CUDA, where the
runners use batches. The set-up of each method (prompts, references) is timed once; a test image
several times, in turn with the other methods, and its median is multiplied by the test images of a
category. `--quick` times one test image instead of five. Writes nothing.
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

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import anomalib_winclip
from datasets.references import ShotSetting, draw_references
from datasets.splits import Sample
from models.clip.device import describe_device, resolve_device, to_device
from models.clip.encoder import WindowedEncoder
from models.clip.text import encode_states
from models.clip.weights import RANDOM, LoadedClip, load_clip
from models.prompts import prompt_ensemble
from models.winclip import Features, TextBank, VisualBank, winclip
from utils.cli import run_cli
from utils.workers import reuse_freed_memory

SHOTS, SEEDS = (0, 1, 2, 4), (0, 1, 2, 3, 4)
PASSES = {shots: len(SEEDS) if shots else 1 for shots in SHOTS}
TRAIN = 200  # images to draw references from: about an MVTec AD category
IMAGES = 115  # MVTec AD's 1,725 test images in 15 categories
REPEATS, QUICK_REPEATS = 5, 1


class Ours:
    """Our encoder and scores: all `runs` from one encoding of each image."""

    def __init__(self, clip: LoadedClip, image: Tensor, runs: Sequence[ShotSetting]):
        self.clip, self.encoder = clip, WindowedEncoder(clip.model.visual)
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
        ensemble = prompt_ensemble("bottle")
        prompts = encode_states(self.clip.model, self.clip.tokenizer, *ensemble)
        self.text = TextBank.from_prompts(*prompts, 0.07, True)
        features = [self.encoder.encode_images(self.image) for _ in range(self.references)]
        if features:
            self.bank = VisualBank.from_features(Features.concatenate(features))

    def score(self) -> None:
        """One test image."""
        winclip(self.encoder.encode_images(self.image), self.text, self.bank, self.rows)


class Anomalib:
    """anomalib's model, with a corrected token layout, for one number of shots."""

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
    """Return the seconds of one call."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def time_methods(
    methods: dict[str, "Ours | Anomalib"], repeats: int
) -> dict[str, tuple[float, float]]:
    """Return the seconds of each method's set-up and of one test image."""
    device = next(iter(methods.values())).image.device
    with torch.inference_mode():
        set_up = {name: seconds_of(method.set_up, device) for name, method in methods.items()}
        images: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(repeats):
            for name, method in methods.items():
                images[name].append(seconds_of(method.score, device))
    return {name: (set_up[name], statistics.median(images[name])) for name in methods}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="time one test image, not five")
    parser.add_argument(
        "--model", default="ViT-B-16-plus-240", help="an open_clip model (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="auto", help='"auto" (default), "cpu", "cuda" or "cuda:N"'
    )
    parser.add_argument(
        "--images",
        type=int,
        default=IMAGES,
        help="test images of the category (default: %(default)s)",
    )
    options = parser.parse_args()
    reuse_freed_memory()
    device = resolve_device(options.device)
    clip = load_clip(options.model, RANDOM)
    to_device(clip.model, device, "fp32")
    image = torch.randn(1, 3, clip.image_size, clip.image_size, device=device)
    train = [Sample("bottle", "train", 0, "good", f"{i:03}", "") for i in range(TRAIN)]
    runs = draw_references(train, SHOTS, SEEDS)
    methods: dict[str, Ours | Anomalib] = {"one run": Ours(clip, image, runs)}
    methods["one run"].encoder.encode_images(image)  # warm-up: device start, memory allocation
    first = {run.shots: run for run in reversed(runs)}
    methods |= {f"ours, {shots}-shot": Ours(clip, image, [first[shots]]) for shots in SHOTS}
    if importlib.util.find_spec("anomalib"):
        methods |= {
            f"anomalib, {shots}-shot": Anomalib(clip, options.model, image, shots)
            for shots in SHOTS
        }
    print(f"{options.model}, fp32, random weights; {describe_device(device)}")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {datetime.date.today()}\n")
    print_table(time_methods(methods, QUICK_REPEATS if options.quick else REPEATS), options.images)


def print_table(seconds: dict[str, tuple[float, float]], images: int) -> None:
    """Print the times, and those of a category of `images` test images that follow from them."""
    totals = {}
    print("                   set-up, s  a test image, s  times")
    for name, (set_up, image) in seconds.items():
        family, _, shots = name.partition(", ")
        passes = PASSES[int(shots.removesuffix("-shot"))] if shots else 1
        print(f"{name:18} {set_up:10.2f} {image:16.3f} {passes:6}")
        totals[family] = totals.get(family, 0.0) + passes * (set_up + images * image)
    print(f"\n16 results of {images} test images")
    for family, total in totals.items():
        label = family if family == "one run" else f"passes of {family}"
        print(f"{label:18} {total:8.0f} s, {total / totals['one run']:.1f} times the one run")


if __name__ == "__main__":
    run_cli(main)

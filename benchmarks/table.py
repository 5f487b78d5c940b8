"""Seconds for the paper's whole table of one category: one run, beside a pass per (shots, seed).

    python benchmarks/table.py [--quick] [--model NAME] [--device DEVICE]

0, 1, 2 and 4 shots x 5 seeds are sixteen results. "one run" encodes every image once and scores all
of them from that, as the runners do; "separate passes" encode the test images and the references
again for each, with the same encoder, as public implementations do; those of anomalib are timed
too where it is installed (with its token layout mended). Random weights and pixels: speed does not
depend on them. Decoding and metrics are left out of all. One pass of each number of shots is timed,
in turn with the others, and counted as often as there are seeds. `--quick` takes 2 test images in
place of 8. Nothing is written.
"""

import argparse
import datetime
import os
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from benchmarks.peers import anomalib_winclip
from datasets.references import draw_runs
from datasets.splits import Sample
from models.clip import WindowedEncoder
from models.device import place, resolve_device
from models.prompts import prompt_ensemble
from models.weights import RANDOM, load_clip
from models.winclip import Features, TextBank, VisualBank
from utils.errors import exit_with_sentence
from utils.folder import machine
from utils.scoring import score_runs

SHOTS, SEEDS = (0, 1, 2, 4), (0, 1, 2, 3, 4)
TRAIN = 200  # references are drawn from so many: about an MVTec AD category
TESTS, QUICK_TESTS = 8, 2


class Category:
    """Random test images and references, an encoder, and a text bank."""

    def __init__(self, name: str, device: torch.device, tests: int):
        clip = load_clip(name, RANDOM)
        place(clip, device, "fp32")
        self.encoder = WindowedEncoder(clip.model, clip.tokenizer)
        self.shape = (3, clip.image_size, clip.image_size)
        self.tests = tests
        self.peer = anomalib_winclip(clip, name)
        prompts = (self.encoder.encode_text(part) for part in prompt_ensemble("bottle"))
        self.text = TextBank.from_prompts(*prompts, 0.07, True)
        train = [Sample("bottle", "train", 0, "good", f"{i:03}", "") for i in range(TRAIN)]
        self.runs = draw_runs(train, SHOTS, SEEDS)

    def encode(self, count: int) -> list[Features]:
        """The features of some random images, one at a time."""
        device = self.encoder.device
        return [
            self.encoder.encode_images(torch.randn(1, *self.shape, device=device))
            for _ in range(count)
        ]

    def one_run(self) -> float:
        """Seconds for all sixteen results from one encoding."""
        start = time.perf_counter()
        images = sorted({image for run in self.runs for image in run.images})
        bank = VisualBank.from_features(Features.concatenate(self.encode(len(images))))
        rows = [
            torch.tensor(np.searchsorted(images, run.images), device=self.encoder.device)
            if run.images
            else None
            for run in self.runs
        ]
        for features in self.encode(self.tests):
            score_runs(features, self.text, bank, rows)
        self.synchronise()
        return time.perf_counter() - start

    def one_pass(self, shots: int) -> float:
        """Seconds for one result by itself."""
        start = time.perf_counter()
        bank = rows = None
        if shots:
            bank = VisualBank.from_features(Features.concatenate(self.encode(shots)))
            rows = torch.arange(shots, device=self.encoder.device)
        for features in self.encode(self.tests):
            score_runs(features, self.text, bank, [rows])
        self.synchronise()
        return time.perf_counter() - start

    def peer_pass(self, shots: int) -> float:
        """Seconds for one result by itself, as anomalib works it out."""
        start = time.perf_counter()
        device = self.encoder.device
        self.peer.k_shot, self.peer.reference_images = 0, None
        references = torch.randn(shots, *self.shape, device=device) if shots else None
        with torch.inference_mode():
            self.peer.setup("bottle", references)
            for _ in range(self.tests):
                self.peer(torch.randn(1, *self.shape, device=device))
        self.synchronise()
        return time.perf_counter() - start

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.encoder.device.type == "cuda":
            torch.cuda.synchronize(self.encoder.device)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="ViT-B-16-plus-240", help="an open_clip model")
    parser.add_argument("--device", default="auto", help='"auto", "cpu", "cuda", "cuda:N"')
    options = parser.parse_args()
    device = resolve_device(options.device)
    category = Category(options.model, device, QUICK_TESTS if options.quick else TESTS)
    references = len({image for run in category.runs for image in run.images})
    print(f"{options.model}, fp32, random weights; {category.tests} test images; {machine(device)}")
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {datetime.date.today()}\n")
    category.encode(1)  # warm-up
    ours = category.one_run()
    print(f"one run, {references} distinct references, 16 results {ours:10.1f} s")
    ways = {"ours": category.one_pass}
    if category.peer:
        ways["anomalib"] = category.peer_pass
    totals = dict.fromkeys(ways, 0.0)
    for shots in SHOTS:
        seeds = len(SEEDS) if shots else 1
        for way, one_pass in ways.items():
            seconds = one_pass(shots)
            totals[way] += seeds * seconds
            print(f"{shots}-shot, one pass, {way:8} {seconds:10.1f} s, {seeds} of them")
    for way, total in totals.items():
        print(f"sixteen passes, {way:8} {total:10.1f} s: {total / ours:.1f} times the one run")


if __name__ == "__main__":
    exit_with_sentence(main)

"""Measure how busy a run keeps its encoder: the share of time, and images per second.

    python benchmarks/pipeline.py --data-root DIR [--speed N] [--repeat N] [--heatmaps N]
    python benchmarks/pipeline.py --data-root DIR [--repeat N] --one-process

A stand-in takes the encoder's place and returns random features. It behaves like a GPU of N
images/s: a launch returns at once, batches are encoded one after another while the CPU goes on,
and reading the results of a batch waits until it is encoded. Scoring, which a GPU would do as
well, runs on the CPU in one thread, on narrow features; a GPU would be busier than the stand-in.
All else is a real run of 0, 1, 2 and 4 shots x 5 seeds: decoding, scoring, metrics, tables,
heatmaps and report, with as many writing processes as beside a GPU. DIR has images in MVTec AD's
layout; each test image is used `--repeat` times. Time counts from the first image to the end of the
run. Writes only temporary files.

With `--one-process`, the encoder is instant, nothing runs in other processes and all heatmaps are
drawn: prints the time an image that metrics, heatmaps and report data take on one core.
"""

import argparse
import datetime
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import numpy as np
import torch
from torch import Tensor

from datasets.mvtec import MVTEC
from datasets.prepare import Options, prepare
from datasets.splits import read_split, write_split
from models.winclip import Features
from utils.cli import run_cli
from utils.experiment.settings import Settings
from utils.results.folder import read_json
from utils.run import inference, session
from utils.run.benchmark import run
from utils.run.stream import TILES_PER_PASS, FeatureStream, HostCopy

WIDTH = 32  # of the features, so that scoring them on the CPU takes little time
AROUND_THE_ENCODER = ("metrics", "heatmaps", "report")  # stages of a run
GRID, SCALES, SIDE = (15, 15), (2, 3), 240  # those of the paper's backbone
MODEL = {  # only its text tower is used
    "embed_dim": WIDTH,
    "vision_cfg": {
        "image_size": SIDE,
        "patch_size": 16,
        "layers": 2,
        "width": 32,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


class StandIn:
    """An encoder of a given speed in images per second."""

    def __init__(self, speed: float):
        self.speed = speed
        self.images, self.began, self.free_at = 0, 0.0, 0.0  # times of time.perf_counter()
        windows = [(GRID[0] - size + 1) * (GRID[1] - size + 1) for size in SCALES]
        self.shapes = [(), *((count,) for count in windows), (GRID[0] * GRID[1],)]

    def encode_images(self, pixels: Tensor) -> Features:
        """Queue the images behind those before, and return random features at once."""
        self.began = self.began or time.perf_counter()
        self.free_at = max(self.free_at, time.perf_counter()) + len(pixels) / self.speed
        self.images += len(pixels)
        image, *windows, patches = (
            torch.randn(len(pixels), *shape, WIDTH) for shape in self.shapes
        )
        return Features(image, tuple(windows), patches, GRID, SCALES)

    def copy_to_host(self, *tensors: Tensor) -> "LateCopy":
        """Start a copy that is ready when all queued images are encoded."""
        return LateCopy(self.free_at, *tensors)


class LateCopy(HostCopy):
    """A copy from the stand-in, which is ready at a time of time.perf_counter()."""

    def __init__(self, ready_at: float, *tensors: Tensor):
        super().__init__(*tensors)
        self.ready_at = ready_at

    def read(self) -> list[np.ndarray]:
        """Wait until the copy is ready, and return it."""
        time.sleep(max(0, self.ready_at - time.perf_counter()))
        return super().read()


class BatchedStream(FeatureStream):
    """A stream that encodes as many tiles at once as for a GPU."""

    def __init__(self, *arguments: object):
        super().__init__(*arguments)
        self.tiles_per_pass = TILES_PER_PASS


def repeat_images(root: Path, folder: Path, repeat: int) -> Path:
    """Link `root` into `folder` under `repeat` names; return a split with all their test images."""
    options = Options(root, splits_folder=folder, allow_incomplete=True)
    samples, copies = read_split(prepare(MVTEC, options)[0]), []
    for turn in range(repeat):
        (folder / str(turn)).symlink_to(root.resolve())
        for sample in samples:
            if sample.split == "test" or turn == 0:
                mask = sample.mask and f"{turn}/{sample.mask}"
                copies.append(replace(sample, image=f"{turn}/{sample.image}", mask=mask))
    return write_split(copies, folder, "repeated")[0]


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the images")
    parser.add_argument("--speed", type=float, default=15, help="images/s of the stand-in")
    parser.add_argument("--repeat", type=int, default=4, help="uses of each test image")
    parser.add_argument("--heatmaps", type=int, default=3, help="heatmaps of each defect")
    parser.add_argument("--one-process", action="store_true", help="time the work of one core")
    options = parser.parse_args()
    alone = options.one_process
    encoder, make_method = StandIn(math.inf if alone else options.speed), session.winclip_method
    session.winclip_method = lambda *arguments: replace(make_method(*arguments), encoder=encoder)
    session.FeatureStream, inference.HostCopy = BatchedStream, encoder.copy_to_host
    session.pool_size = lambda settings: 0 if alone else settings.num_workers  # as for a GPU
    torch.set_num_threads(1)  # threads for small products would wait for the worker processes
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "tiny.json").write_text(json.dumps(MODEL))
        settings = Settings(
            "mvtec",
            data_root=str(folder),
            split=str(repeat_images(options.data_root, folder, options.repeat)),
            model=str(folder / "tiny.json"),
            pretrained="random",
            device="cpu",
            heatmaps="all" if alone else options.heatmaps,
            result_dir=str(folder / "result"),
            num_workers=0 if alone else "auto",
        )
        run(settings)
        seconds = time.perf_counter() - encoder.began
        stages = read_json(folder / "result/settings.json", "seconds")["seconds"]
    print(f"\n{os.cpu_count()} cores, {datetime.date.today()}: {encoder.images} images ", end="")
    if alone:
        times = {stage: 1000 * stages[stage] / encoder.images for stage in AROUND_THE_ENCODER}
        parts = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in times.items())
        print(f"in one process: {sum(times.values()):.1f} ms an image ({parts})")
        return
    print(
        f"in {seconds:.1f} s, {encoder.images / seconds:.1f} images/s; the encoder of "
        f"{encoder.speed:g} images/s was busy {encoder.images / encoder.speed / seconds:.0%} of "
        "the time"
    )


if __name__ == "__main__":
    run_cli(main)

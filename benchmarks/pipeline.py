"""Measure how busy a run keeps its encoder: the share of time, and images per second.

    python benchmarks/pipeline.py --data-root DIR [--speed N] [--repeat N] [--heatmaps N]

A stand-in takes the encoder's place: it sleeps 1/N s per image, as a GPU of that speed would leave
the CPU free, and returns random features. All else is a real run of 0, 1, 2 and 4 shots x 5 seeds:
decoding, scoring, metrics, tables, heatmaps and report. DIR has images in MVTec AD's layout; every
category is run `--repeat` times under different names. Time counts from the first image to the
end of the run. Writes only temporary files.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from datasets.mvtec import MVTEC
from datasets.prepare import Options, prepare
from datasets.splits import read_split, write_split
from models.winclip import Features
from utils.cli import run_cli
from utils.run import session
from utils.run.benchmark import run
from utils.run.settings import Settings

WIDTH = 32  # of the features, so that scoring them on the CPU takes little time
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
        self.speed, self.device = speed, torch.device("cpu")
        self.images, self.began = 0, 0.0
        windows = [(GRID[0] - size + 1) * (GRID[1] - size + 1) for size in SCALES]
        self.shapes = [(), *((count,) for count in windows), (GRID[0] * GRID[1],)]

    def encode_images(self, pixels: Tensor) -> Features:
        """Sleep as long as the encoder would take; return random features."""
        self.began = self.began or time.perf_counter()
        time.sleep(len(pixels) / self.speed)
        self.images += len(pixels)
        image, *windows, patches = (
            torch.randn(len(pixels), *shape, WIDTH) for shape in self.shapes
        )
        return Features(image, tuple(windows), patches, GRID, SCALES)


def repeat_categories(root: Path, folder: Path, repeat: int) -> Path:
    """Link every category into `folder` under `repeat` names; return the path of their split."""
    options = Options(root, splits_folder=folder, allow_incomplete=True)
    copies = []
    for sample in read_split(prepare(MVTEC, options)[0]):
        for turn in range(repeat):
            name = f"{sample.class_name}_{turn}"
            link = folder / name
            if not link.exists():
                link.symlink_to(root.resolve() / sample.class_name)
            paths = {
                key: path and str(Path(name, *Path(path).parts[1:]))
                for key, path in (("image", sample.image), ("mask", sample.mask))
            }
            copies.append(replace(sample, class_name=name, **paths))
    return write_split(copies, folder, "repeated")[0]


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--speed", type=float, default=15, help="images per second")
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--heatmaps", type=int, default=3, help="of each defect")
    options = parser.parse_args()
    encoder, load = StandIn(options.speed), session.load_encoder
    session.load_encoder = lambda *arguments: (load(*arguments)[0], encoder)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "tiny.json").write_text(json.dumps(MODEL))
        settings = Settings(
            "mvtec",
            data_root=str(folder),
            split=str(repeat_categories(options.data_root, folder, options.repeat)),
            model=str(folder / "tiny.json"),
            pretrained="random",
            device="cpu",
            heatmaps=options.heatmaps,
            result_dir=str(folder / "result"),
        )
        run(settings)
    seconds = time.perf_counter() - encoder.began
    busy = encoder.images / encoder.speed
    print(
        f"\n{os.cpu_count()} cores, {datetime.date.today()}: {encoder.images} images in "
        f"{seconds:.1f} s, {encoder.images / seconds:.1f} images/s; the encoder of "
        f"{encoder.speed:g} images/s was busy {busy / seconds:.0%} of the time"
    )


if __name__ == "__main__":
    run_cli(main)

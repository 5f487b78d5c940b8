"""Seconds and memory of whole runs over more and more images: both should grow as little as can be.

    python benchmarks/scale.py [--quick]

Makes datasets of 1,250 to 20,000 small pictures in MVTec AD's layout (a few files, linked;
categories of 100 test images), and runs `run_winclip.py` on each with a small encoder and random
weights, 0-shot and 1-shot, everything written but heatmaps. What is measured is the program around
the encoder.
`--quick` takes 100 to 400 pictures. Nothing is kept.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[0] = str(PROJECT)

import numpy as np
from PIL import Image

from datasets.splits import Sample, write_split
from utils.cli import run_cli

SIZES, QUICK_SIZES = (1250, 5000, 20000), (100, 200, 400)
PICTURES = 25  # different ones; the rest are links to them
SIDE = 240  # pixels
TRAIN, GOOD, ANOMALOUS = 2, 60, 40  # images of a category
MODEL = {  # the paper's grid, next to no width
    "embed_dim": 32,
    "vision_cfg": {"image_size": 240, "patch_size": 16, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def draw_pictures(folder: Path) -> None:
    """A few pictures of noise, and a mask."""
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[60:120, 80:140] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def make_dataset(folder: Path, source: Path, images: int) -> Path:
    """Link `images` test images into categories, and write their split; returns it."""
    samples = []
    for start in range(0, images, GOOD + ANOMALOUS):
        name = f"c{start // (GOOD + ANOMALOUS):03}"
        kinds = [("train", "good")] * TRAIN + [("test", "good")] * GOOD
        kinds += [("test", "crack")] * ANOMALOUS
        for number, (split, defect) in enumerate(kinds):
            image = f"{name}/{split}/{defect}/{number:03}.jpg"
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            os.link(source / f"{number % PICTURES}.jpg", folder / image)
            label = int(defect != "good")
            samples.append(Sample(name, split, label, defect, image, "mask.png" if label else ""))
    os.link(source / "mask.png", folder / "mask.png")
    return write_split(samples, folder, "scale")[0]


def run(folder: Path, split: Path) -> tuple[float, int]:
    """Seconds and peak memory (KiB, of the largest process) of one run of the real script."""
    (folder / "tiny.json").write_text(json.dumps(MODEL))
    words = ["--data-root", folder, "--split", split, "--model", folder / "tiny.json"]
    words += ["--pretrained", "random", "--result-dir", folder / "result"]
    words += ["--shots", 0, 1, "--seeds", 0, "--heatmaps", "none", "--quiet"]
    start = time.perf_counter()
    command = [sys.executable, PROJECT / "run_winclip.py", *words]
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen([*map(str, command)], stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "said.txt").read_text())
    return time.perf_counter() - start, usage.ru_maxrss


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {datetime.date.today()}\n")
    print("  images   seconds   s/1000   encoder's  peak MiB  report MiB")
    with tempfile.TemporaryDirectory() as place:
        draw_pictures(Path(place))
        for images in QUICK_SIZES if options.quick else SIZES:
            folder = Path(place) / str(images)
            folder.mkdir()
            seconds, peak = run(folder, make_dataset(folder, Path(place), images))
            report = (folder / "result" / "report.html").stat().st_size / 2**20
            record = json.loads((folder / "result" / "settings.json").read_text())
            encoder = record["seconds"]["encode"] / seconds
            print(
                f"{images:8}{seconds:10.1f}{1000 * seconds / images:9.2f}{encoder:12.0%}"
                f"{peak / 1024:10.0f}{report:12.1f}",
                flush=True,
            )


if __name__ == "__main__":
    run_cli(main)

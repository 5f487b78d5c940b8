"""Measure seconds and memory of whole runs over growing numbers of images.

    python benchmarks/scale.py [--quick]

Makes datasets of 1,250 to 20,000 small images in MVTec AD's layout (hard links to a few files;
categories of 100 test images), and runs `run_winclip.py` on each, 0-shot and 1-shot, with
everything but heatmaps. A tiny encoder with random weights leaves mostly the cost of the program
around it. `--quick` takes 100 to 400 images. Writes only temporary files.
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

sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import numpy as np
from PIL import Image

from datasets.splits import Sample, write_split
from utils.cli import run_cli
from utils.files import PROJECT

SIZES, QUICK_SIZES = (1250, 5000, 20000), (100, 200, 400)
DISTINCT = 25  # images; the others are hard links to them
SIDE = 240  # pixels
TRAIN, GOOD, ANOMALOUS = 2, 60, 40  # images of a category
MODEL = {  # the paper's grid, hardly any width
    "embed_dim": 32,
    "vision_cfg": {"image_size": 240, "patch_size": 16, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def draw_images(folder: Path) -> None:
    """Write a few images of noise, and a mask."""
    rng = np.random.default_rng(0)
    for index in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[60:120, 80:140] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def make_dataset(folder: Path, source: Path, images: int) -> Path:
    """Link `images` test images into categories; return the path of their split."""
    samples = []
    for start in range(0, images, GOOD + ANOMALOUS):
        name = f"c{start // (GOOD + ANOMALOUS):03}"
        kinds = [("train", "good")] * TRAIN + [("test", "good")] * GOOD
        kinds += [("test", "crack")] * ANOMALOUS
        for index, (split, defect) in enumerate(kinds):
            image = f"{name}/{split}/{defect}/{index:03}.jpg"
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            os.link(source / f"{index % DISTINCT}.jpg", folder / image)
            label = int(defect != "good")
            samples.append(Sample(name, split, label, defect, image, "mask.png" if label else ""))
    os.link(source / "mask.png", folder / "mask.png")
    return write_split(samples, folder, "scale")[0]


def run(folder: Path, split: Path) -> tuple[float, int]:
    """Run the script; return its seconds and peak memory (KiB, of the largest process)."""
    (folder / "tiny.json").write_text(json.dumps(MODEL))
    options = ["--data-root", folder, "--split", split, "--model", folder / "tiny.json"]
    options += ["--pretrained", "random", "--result-dir", folder / "result"]
    options += ["--shots", 0, 1, "--seeds", 0, "--heatmaps", "none", "--quiet"]
    start = time.perf_counter()
    command = [sys.executable, PROJECT / "run_winclip.py", *options]
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "output.txt").read_text())
    return time.perf_counter() - start, usage.ru_maxrss


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="take 100 to 400 images")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {datetime.date.today()}\n")
    print("  images   seconds   s/1000   encoder's  peak MiB  report MiB")
    with tempfile.TemporaryDirectory() as temporary:
        draw_images(Path(temporary))
        for images in QUICK_SIZES if options.quick else SIZES:
            folder = Path(temporary) / str(images)
            folder.mkdir()
            seconds, peak = run(folder, make_dataset(folder, Path(temporary), images))
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

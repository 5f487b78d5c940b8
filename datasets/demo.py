"""Render the demo benchmark, in MVTec AD's layout, and write its split.

    python datasets/demo.py                  # into data/demo/; run_demo.py does it by itself
    python datasets/demo.py --data-root DIR

Twelve products, 32 pictures of each with exact masks, made by drawing (datasets/render/): the same
bytes on every run. Six of the products are "unseen": the demo CLIP was trained without them.
"""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from datasets import prepare
from datasets.download import Archive
from datasets.official import OFFICIAL
from datasets.render import catalogue
from datasets.splits import RECIPE, SPLITS_FOLDER, read_recipe, read_root, read_split
from utils.cli import parse_options, run_cli
from utils.errors import InputError
from utils.files import PROJECT, real_path, user_path, write_png, write_text
from utils.log import progress_bar

SEED = 2023  # of every picture; another one gives another benchmark

DEMO = prepare.Dataset(
    name="demo",
    stem="demo",
    title="the demo benchmark",
    archive=Archive("", "", None, "run python datasets/demo.py, which renders it"),
    layout="wood/train/good, wood/test/<defect>, wood/ground_truth/<defect>, leather/...",
    scan=lambda root: prepare.scan_mvtec_layout(root, list(OFFICIAL["demo"])),
)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    data_root: Path = PROJECT / "data" / "demo"
    """Where the pictures are put."""
    splits_folder: Path = SPLITS_FOLDER
    """Where the split is written."""


def render_all(root: Path) -> None:
    """Draw every picture and mask of the benchmark into `root`."""
    jobs = []
    for name, counts in OFFICIAL["demo"].items():
        jobs += [(root, name, "train", "good", number) for number in range(counts.train)]
        jobs += [(root, name, "test", "good", number) for number in range(counts.good)]
        for defect, count in counts.defects.items():
            jobs += [(root, name, "test", defect, number) for number in range(count)]
    with ThreadPoolExecutor(prepare.THREADS) as executor:
        drawn = executor.map(render_one, jobs)
        list(progress_bar(drawn, total=len(jobs), desc="rendering", unit="image"))


def recipe() -> str:
    """What the pictures depend on, the seed and the code that draws them, as a checksum."""
    digest = hashlib.sha256(str(SEED).encode())
    for path in sorted(Path(catalogue.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def render_one(job: tuple[Path, str, str, str, int]) -> None:
    """Draw one picture, and its mask where it has one."""
    root, product, split, defect, number = job
    rng = catalogue.generator_of(SEED, product, split, defect, number)
    picture, mask = catalogue.render(product, None if defect == "good" else defect, rng)
    write_png(root / product / split / defect / f"{number:03}.png", picture)
    if defect != "good":
        name = f"{number:03}_mask.png"
        write_png(root / product / "ground_truth" / defect / name, mask.astype(np.uint8) * 255)


def make(options: Options) -> None:
    """Render the benchmark and write its split."""
    root = real_path(user_path(options.data_root))
    write_text(root / RECIPE, "unfinished\n")  # what is broken off is drawn again
    render_all(root)
    write_text(root / RECIPE, recipe() + "\n")
    prepare.prepare(DEMO, prepare.Options(root, splits_folder=options.splits_folder))


def render_if_needed(data_root: str) -> None:
    """Render the benchmark into its usual place, unless it is there; DATA_ROOT names another.

    One of another seed, or drawn by older code, is drawn again.
    """
    if data_root != "auto":
        return
    try:
        root = read_root("demo")
        samples = read_split(SPLITS_FOLDER / "demo.csv")
        there = read_recipe(root) == recipe() and all(
            (root / sample.image).is_file() for sample in samples
        )
    except InputError:
        there = False
    if not there:
        make(Options())


if __name__ == "__main__":
    run_cli(lambda: make(parse_options(Options(), __doc__, Path(__file__))))

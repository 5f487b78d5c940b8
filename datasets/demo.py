"""Render the demo benchmark in MVTec AD's layout and write its split.

    python datasets/demo.py                  # into data/demo/; run_demo.py does it when needed
    python datasets/demo.py --data-root DIR

Twelve categories of 32 images each, with exact masks, rendered by datasets/render/: the same bytes
on every run. Six of the categories are "unseen": the demo CLIP was trained without them.
"""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: imports start at the project, not at this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import numpy as np

from datasets import prepare
from datasets.download import Archive
from datasets.layouts.mvtec_ad import scan_mvtec_layout
from datasets.official import OFFICIAL
from datasets.splits import RECIPE, SPLITS_FOLDER, read_recipe, read_root, read_split
from utils.cli import parse_options, run_cli
from utils.errors import InputError
from utils.files import PROJECT, real_path, user_path, write_png, write_text
from utils.log import progress_bar

SEED = 2023  # of every image; any other seed gives a different benchmark
RENDERER = Path(__file__).with_name("render")

DEMO = prepare.BenchmarkSpec(
    name="demo",
    stem="demo",
    title="the demo benchmark",
    archive=Archive(by_hand="run python datasets/demo.py, which renders it"),
    layout="wood/train/good, wood/test/<defect>, wood/ground_truth/<defect>, leather/...",
    scan=lambda root: scan_mvtec_layout(root, list(OFFICIAL["demo"])),
    official=False,
)


@dataclass(frozen=True)
class Options:
    """The command line of this script."""

    data_root: Path = PROJECT / "data" / "demo"
    """Folder that the images are rendered into."""
    splits_folder: Path = SPLITS_FOLDER
    """Folder that the split is written to."""


def render_all(root: Path) -> None:
    """Render every image and mask of the benchmark into `root`."""
    jobs = []
    for category, counts in OFFICIAL["demo"].items():
        jobs += [(root, category, "train", "good", index) for index in range(counts.train)]
        jobs += [(root, category, "test", "good", index) for index in range(counts.good)]
        for defect, count in counts.defects.items():
            jobs += [(root, category, "test", defect, index) for index in range(count)]
    with ThreadPoolExecutor(prepare.THREADS) as executor:
        rendered = executor.map(lambda job: render_one(*job), jobs)
        list(progress_bar(rendered, total=len(jobs), desc="rendering", unit="image"))


def render_one(root: Path, category: str, split: str, defect: str, index: int) -> None:
    """Render one image, and its mask if it has a defect."""
    from datasets.render import catalogue  # a run on rendered images needs none of it

    rng = catalogue.seeded_generator(SEED, category, split, defect, index)
    image, mask = catalogue.render(category, None if defect == "good" else defect, rng)
    write_png(root / category / split / defect / f"{index:03}.png", image)
    if defect != "good":
        path = root / category / "ground_truth" / defect / f"{index:03}_mask.png"
        write_png(path, mask.astype(np.uint8) * 255)


def recipe() -> str:
    """Return a checksum of all that determines the images: the seed and the renderer's code."""
    digest = hashlib.sha256(str(SEED).encode())
    for path in sorted(RENDERER.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make(options: Options) -> None:
    """Render the benchmark and write its split; raise `InputError` if it cannot be written."""
    root = real_path(user_path(options.data_root))
    write_text(
        root / RECIPE, "unfinished\n"
    )  # so that `render_if_needed` repeats an interrupted rendering
    render_all(root)
    write_text(root / RECIPE, recipe() + "\n")
    prepare.prepare(DEMO, prepare.Options(root, splits_folder=options.splits_folder))


def render_if_needed(data_root: str) -> None:
    """Render the benchmark into data/demo/ unless it is complete and of the current `recipe`.

    A `data_root` other than "auto" is the user's own folder, which is left alone.
    """
    if data_root != "auto":
        return
    try:
        root = read_root("demo")
        samples = read_split(SPLITS_FOLDER / "demo.csv")
        complete = all((root / sample.image).is_file() for sample in samples)
        if complete and read_recipe(root) == recipe():
            return
    except InputError:
        pass  # never rendered
    make(Options())


if __name__ == "__main__":
    run_cli(lambda: make(parse_options(Options(), __doc__, Path(__file__))))

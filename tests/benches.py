"""Small benchmarks, prepared, with a small CLIP, for tests of whole runs."""

import re
from dataclasses import replace
from pathlib import Path

from datasets import mvtec, visa
from datasets.prepare import Options, prepare
from tests.clips import write_config
from tests.layouts import make_mvtec, make_visa
from utils.experiment.settings import Settings

SHOTS, SEEDS = (0, 1, 2), (0, 1)
RUNS = 1 + 2 * 2  # 0-shot once; 1-shot and 2-shot with two seeds each


def small_mvtec(folder: Path) -> Settings:
    """Prepare a small MVTec AD of two categories; return its settings, with a small CLIP."""
    root = make_mvtec(folder / "raw")
    options = Options(root, splits_folder=folder / "splits", allow_incomplete=True)
    split, _ = prepare(mvtec.MVTEC, options)
    return Settings(
        dataset="mvtec",
        data_root=str(root),
        split=str(split),
        shots=SHOTS,
        seeds=SEEDS,
        model=str(write_config(folder, "small-run", 240, 16, layers=2, width=32)),
        pretrained="random",
        device="cpu",  # also where the tests of CUDA see a GPU
        batch_size=3,
        num_workers=0,
        result_dir=str(folder / "result"),
    )


def small_visa(folder: Path, settings: Settings) -> Settings:
    """Prepare a small VisA of one category and 96 x 144 pixels; return `settings` for it."""
    root = make_visa(folder / "raw", ["capsules"])
    options = Options(root, splits_folder=folder, allow_incomplete=True)
    split, _ = prepare(visa.visa("1cls"), options)
    paths = {"data_root": str(root), "split": str(split), "result_dir": str(folder / "result")}
    return replace(settings, dataset="visa", **paths)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a result folder but the lock and those that have times in them.

    The labels in LaTeX files, which have the name of the folder, are left out.
    """
    timed = ("settings.json", "run.log", "report.html", ".lock")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in timed]
    label = re.compile(rb"\\label\{[^}]*\}")
    return {
        path.relative_to(folder).as_posix(): label.sub(b"", path.read_bytes())
        if path.suffix == ".tex"
        else path.read_bytes()
        for path in files
    }

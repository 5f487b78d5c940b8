"""Make a benchmark of your own dataset: find its images, labels and masks, and write its split.

    python datasets/folder.py --data-root DIR --name NAME             # folders
    python datasets/folder.py --csv FILE --name NAME                  # a list of images and labels
    python datasets/folder.py --csv FILE --data-root DIR --name NAME  # ... with paths below DIR

docs/own-data.md describes the layouts and columns that are read. Decodes every image and mask once.
Writes datasets/splits/NAME.csv, NAME_meta.json (read by other repositories of the field) and
NAME_root.txt (the data root, for run_folder.py). Never writes into the image folders. Where a
category has no train images, some of its good test images become references instead of tests;
NAME_notes.txt says so, and every result shows it.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

if __package__ in (None, ""):  # run as a file: imports start at the project, not at this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import numpy as np
import tyro

from datasets.layouts.folders import LAYOUT, Scan, scan_folders
from datasets.layouts.table import read_table
from datasets.prepare import BenchmarkSpec, Options, prepare, raise_faults, readable
from datasets.references import find_copies
from datasets.splits import SPLITS_FOLDER, Sample, check_name, read_root
from utils.cli import default_text, parse_options, run_cli
from utils.errors import InputError
from utils.files import real_path, user_path

SEED = 0  # of the references that are drawn from good test images
MAX_REFERENCES = 10  # drawn for a category by default, if that is not more than half of its images


@dataclass(frozen=True)
class FolderOptions:
    """The command line of this script."""

    name: Annotated[str, tyro.conf.arg(help_behavior_hint="(required)")] = ""
    """Name of the benchmark, for its split, its results and their titles."""
    data_root: Annotated[Path | None, default_text("the folder of the CSV", "PATH")] = None
    """Folder of the dataset, or with --csv, the folder that relative paths start from."""
    csv: Annotated[Path | None, default_text("none", "PATH")] = None
    """CSV with the columns image and label and, optionally, mask, category, split and defect."""
    category: Annotated[str, default_text("that of the folder, or --name with --csv")] = ""
    """Name of the category if there is only one; it becomes part of the prompts."""
    good_folder: Annotated[str, default_text('"good", "ok", "pass", "normal" and the like')] = ""
    """Name of the folders of good images."""
    references: Annotated[int | None, default_text("half of them, at most 10", "INT")] = None
    """Number of good images that become references in a category without train images."""
    splits_folder: Path = SPLITS_FOLDER
    """Folder that the split is written to."""


def main(options: FolderOptions) -> list[Path]:
    """Write the split of a user's dataset; return the paths of CSV and meta.json.

    Raise `InputError` if the dataset is not understood or any file in it is damaged; then no split
    is written.
    """
    check_name(options.name)
    scan = read_dataset(options)
    check_other_root(options, scan.root)
    drawn = draw_missing_references(scan, options.references)
    check_categories(scan)
    raise_faults(scan.faults + describe_copies(scan))
    if not scan.samples:
        raise InputError(f"{scan.root} has no train or test images; see docs/own-data.md")
    spec = BenchmarkSpec(
        name=options.name,
        stem=options.name,
        title=options.name,
        layout=LAYOUT,
        scan=lambda root: (scan.samples, []),
        runner=f"run_folder.py --name {options.name}",
        official=False,
        notes=notes_on_references(drawn, scan),
    )
    for note in scan.notes:
        print(f"note: {note}")
    return prepare(spec, Options(scan.root, splits_folder=options.splits_folder))


def notes_on_references(drawn: Sequence[str], scan: Scan) -> tuple[str, ...]:
    """Return a note for all results if test images of the categories `drawn` are references."""
    if not drawn:
        return ()
    count = f"{len(drawn)} of {len(by_category(scan.samples))} categories"
    return (
        f"NO TRAIN IMAGES in {count}: some of their good test images are references and are not "
        "tested",
    )


def check_other_root(options: FolderOptions, root: Path) -> None:
    """Raise `InputError` if the name already stands for images in another folder."""
    split = options.splits_folder / f"{options.name}.csv"
    if not split.exists():
        return
    earlier = read_root(options.name, options.splits_folder)
    if real_path(earlier) != real_path(root):
        raise InputError(
            f'--name: "{options.name}" is the benchmark of the images in {earlier}; choose another '
            f"name, or delete {split} to use it for {root}"
        )


def read_dataset(options: FolderOptions) -> Scan:
    """Read the folders or the CSV that the options name."""
    root = user_path(options.data_root) if options.data_root else None
    if root and not root.is_dir():
        raise InputError(f"--data-root: {root} is not a folder; give one, or a list as --csv FILE")
    if options.csv and options.good_folder:
        raise InputError(
            "--good-folder has no effect with --csv, whose column label says which images are "
            "good; remove it"
        )
    if options.csv:
        file = user_path(options.csv)
        return read_table(file, root or file.parent, options.category or options.name)
    if root is None:
        raise InputError("give the folder of the dataset as --data-root DIR, or --csv FILE")
    with readable(root):
        return scan_folders(root, options.category, options.good_folder)


def draw_missing_references(scan: Scan, count: int | None) -> list[str]:
    """Turn good test images of each category without good train images into its train images.

    Return the names of these categories.
    """
    drawn = set()
    for category, rows in by_category(scan.samples).items():
        good = [sample for sample in rows if sample.split == "test" and sample.label == 0]
        if not good or any(sample.split == "train" and sample.label == 0 for sample in rows):
            continue
        if len(good) == 1:
            scan.faults.append(
                f"{category} has one good image; add another, because one becomes a reference and "
                "one is tested"
            )
            continue
        number = min(MAX_REFERENCES, len(good) // 2) if count is None else count
        if not 1 <= number < len(good):
            scan.faults.append(
                f"{category}: expected --references from 1 to {len(good) - 1}, got {number}"
            )
            continue
        order = np.random.default_rng(SEED).permutation(len(good))[:number]
        drawn |= {good[index] for index in order}
        scan.notes.append(
            f"{category} has no train images: {number} of its {len(good)} good test images, drawn "
            f"with seed {SEED}, serve as references and are not tested"
        )
    scan.samples = [replace(s, split="train") if s in drawn else s for s in scan.samples]
    return sorted({sample.class_name for sample in drawn})


def by_category(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Return the samples of each category, sorted."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples):
        groups[sample.class_name].append(sample)
    return groups


def describe_copies(scan: Scan) -> list[str]:
    """Return a fault for each test image whose file is a copy of a train image."""
    train, tests = (
        [sample.image for sample in scan.samples if sample.split == split]
        for split in ("train", "test")
    )
    return [
        f"{scan.root / test} is a copy of the train image {image}; remove one"
        for test, image in find_copies(scan.root, tests, train).items()
    ]


def check_categories(scan: Scan) -> None:
    """Add faults and notes on what the categories lack."""
    for category, rows in by_category(scan.samples).items():
        tests = [sample for sample in rows if sample.split == "test"]
        anomalous = [sample for sample in tests if sample.label == 1]
        unmasked = [sample.image for sample in anomalous if not sample.mask]
        bad_train = sum(sample.split == "train" and sample.label == 1 for sample in rows)
        if not (category.isascii() and any(map(str.isalpha, category))):
            scan.notes.append(
                f"the name {category} becomes part of English prompts; rename the category after "
                "its object, such as metal_nut"
            )
        if all(sample.label == 1 for sample in rows):
            scan.faults.append(f"{category} has no good images; label them good, or 0 in a CSV")
        if not tests:
            scan.faults.append(f"{category} has no test images")
        elif len(anomalous) in (0, len(tests)):
            kind = "good" if anomalous else "anomalous"
            scan.notes.append(f"{category} has no {kind} test images, so its metrics are n/a")
        if unmasked and len(unmasked) == len(anomalous):
            scan.notes.append(f"{category} has no masks, so it gets no pixel metrics")
        elif unmasked:
            scan.notes.append(
                f"{category} has no mask of {len(unmasked)} of its {len(anomalous)} anomalous "
                f"images, which pixel metrics leave out; the first is {unmasked[0]}"
            )
        if bad_train:
            scan.notes.append(
                f"anomalous train images of {category}, which are not used: {bad_train}"
            )


if __name__ == "__main__":
    run_cli(lambda: main(parse_options(FolderOptions(), __doc__, Path(__file__))))

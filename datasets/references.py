"""The normal reference images of WinCLIP+: drawn from a split with a seed, or given as a list.

A run scores one or more (shots, seed) settings. The draws of one seed are nested: the 1-shot image
is in the 2-shot set. The list that a run writes (shots.csv with the columns category, shots, seed,
image) can be given to another run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.splits import Sample
from utils.cli import label
from utils.errors import InputError, describe_error
from utils.files import sha256_of

COLUMNS = ["category", "shots", "seed", "image"]
NO_SEED = -1  # of a setting that draws nothing: zero-shot, and all references of custom images


@dataclass(frozen=True)
class ShotSetting:
    """One (shots, seed) of a category and its reference images."""

    shots: int
    seed: int  # or NO_SEED
    images: tuple[str, ...]  # paths relative to the data root, in the order drawn or listed


def draw_references(
    train: Sequence[Sample], shots: Sequence[int], seeds: Sequence[int]
) -> list[ShotSetting]:
    """Draw the references of every setting of one category, without replacement.

    A seed's draw is the start of one permutation of the category's sorted train images by NumPy's
    default generator, so it does not depend on other categories. Settings are sorted by shots,
    seeds keep their order. Raise `InputError` if there are fewer train images than shots.
    """
    images = sorted(sample.image for sample in train)
    if max(shots) > len(images):
        category = train[0].class_name if train else "a category"
        raise InputError(
            f"{label('shots')} asks for {max(shots)} reference images, but {category} has "
            f"{len(images)} train images in the split; ask for fewer"
        )
    settings = [ShotSetting(0, NO_SEED, ())] if 0 in shots else []
    for count in sorted(set(shots) - {0}):
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(images))[:count]
            settings.append(ShotSetting(count, seed, tuple(images[index] for index in order)))
    return settings


def listed_references(
    table: pd.DataFrame, train: Sequence[Sample], shots: Sequence[int], seeds: Sequence[int]
) -> list[ShotSetting]:
    """Look up the references of every setting of one category in a list with `COLUMNS`.

    The order is that of `draw_references`. Raise `InputError` unless the list has exactly `shots`
    distinct train images for every setting.
    """
    category = train[0].class_name if train else ""
    known = {sample.image for sample in train}
    rows = table[table["category"] == category]
    settings = [ShotSetting(0, NO_SEED, ())] if 0 in shots else []
    for count in sorted(set(shots) - {0}):
        for seed in seeds:
            images = rows[(rows["shots"] == count) & (rows["seed"] == seed)]["image"].tolist()
            if len(set(images)) != count or len(images) != count or not known.issuperset(images):
                raise InputError(
                    f"{label('references')}: the list needs {count} distinct train images of "
                    f"{category} for {count} shots and seed {seed}, but it has {len(images)}"
                    f"{': ' if images else ''}{', '.join(images)}; complete it, or give other "
                    "--shots and --seeds"
                )
            settings.append(ShotSetting(count, seed, tuple(images)))
    return settings


def read_references(path: Path) -> pd.DataFrame:
    """Read a list of references; raise `InputError` if it is unreadable or lacks a column."""
    if not path.is_file():
        raise InputError(
            f'{label("references")}: there is no file {path}; give "draw", or a CSV like a run\'s '
            "shots.csv"
        )
    try:
        table = pd.read_csv(path, compression=None)  # pandas would unpack by suffix
    except (OSError, ValueError) as error:
        raise InputError(
            f"{label('references')}: {path} cannot be read as a CSV ({describe_error(error)}); "
            "give a list like a run's shots.csv"
        ) from error
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise InputError(
            f"{label('references')}: {path} has no column {', '.join(missing)}; it needs "
            f"{', '.join(COLUMNS)}"
        )
    return table


def find_copies(root: Path, tests: Sequence[str], references: Sequence[str]) -> dict[str, str]:
    """Return the test images whose files are copies of reference images, each with one of these.

    Paths are relative to `root`; missing files are no copies. Files are compared by size, then by
    256 bytes, then by sha256: few are read whole, even of BMP files, which have equal sizes.
    """
    exist = {image for image in {*tests, *references} if (root / image).is_file()}
    tests, references = ([i for i in images if i in exist] for images in (tests, references))
    for key in (file_size, middle_bytes, sha256_of):
        keys = {image: key(root / image) for image in {*tests, *references}}
        first = {keys[image]: image for image in reversed(references)}
        tests = [image for image in tests if keys[image] in first]
        shared = {keys[image] for image in tests}
        references = [image for image in references if keys[image] in shared]
    return {image: first[keys[image]] for image in tests}


def file_size(path: Path) -> int:
    """Return the size of a file in bytes."""
    return path.stat().st_size


def middle_bytes(path: Path) -> bytes:
    """Return up to 256 bytes from the middle of a file."""
    with path.open("rb") as stream:
        stream.seek(file_size(path) // 2)
        return stream.read(256)


def reference_rows(
    category: str, settings: Sequence[ShotSetting]
) -> list[tuple[str, int, int | None, str]]:
    """Return the rows of shots.csv for one category; the seed is None if nothing was drawn."""
    return [
        (category, s.shots, None if s.seed == NO_SEED else s.seed, image)
        for s in settings
        for image in s.images
    ]

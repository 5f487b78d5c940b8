"""The normal reference images of WinCLIP+: drawn from a split with a seed, or given as a list.

Every number of shots and seed is one run of the benchmark. The draws of one seed are nested: the
1-shot image is in the 2-shot set. The list that a run writes (shots.csv: category, shots, seed,
image) can be given to another run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.splits import Sample
from utils.errors import InputError, describe_error

COLUMNS = ["category", "shots", "seed", "image"]
NO_SEED = -1  # of a zero-shot run: it draws no reference images


@dataclass(frozen=True)
class Run:
    """One (shots, seed) of a category: its reference images, paths relative to the data root."""

    shots: int
    seed: int  # NO_SEED for zero-shot
    images: tuple[str, ...]


def draw_references(
    train: Sequence[Sample], shots: Sequence[int], seeds: Sequence[int]
) -> list[Run]:
    """All runs of one category, references drawn without replacement from its sorted train rows.

    The draw of a seed is the start of one permutation by NumPy's default generator: it depends on
    the category's own rows and on no other category.
    """
    images = sorted(sample.image for sample in train)
    if max(shots) > len(images):
        where = train[0].class_name if train else "a category"
        raise InputError(
            f"SHOTS asks for {max(shots)} reference images, but {where} has {len(images)} train "
            "images in the split; ask for fewer"
        )
    runs = [Run(0, NO_SEED, ())] if 0 in shots else []
    for count in sorted(set(shots) - {0}):
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(images))
            runs.append(Run(count, seed, tuple(images[place] for place in order[:count])))
    return runs


def listed_references(
    table: pd.DataFrame, train: Sequence[Sample], shots: Sequence[int], seeds: Sequence[int]
) -> list[Run]:
    """All runs of one category, references from a list in the form of shots.csv."""
    category = train[0].class_name if train else ""
    known = {sample.image for sample in train}
    rows = table[table["category"] == category]
    runs = [Run(0, NO_SEED, ())] if 0 in shots else []
    for count in sorted(set(shots) - {0}):
        for seed in seeds:
            chosen = rows[(rows["shots"] == count) & (rows["seed"] == seed)]["image"].tolist()
            if len(set(chosen)) != count or len(chosen) != count or not known.issuperset(chosen):
                raise InputError(
                    f"REFERENCES: the list needs {count} distinct train images of {category} for "
                    f"{count} shots and seed {seed}, and has {len(chosen)}: {chosen}"
                )
            runs.append(Run(count, seed, tuple(chosen)))
    return runs


def read_references(path: Path) -> pd.DataFrame:
    """Read a list of references; a missing file or column is an `InputError`."""
    try:
        table = pd.read_csv(path, compression=None)  # whatever its suffix is
    except (OSError, ValueError) as error:
        raise InputError(
            f"REFERENCES: {path} cannot be read as a CSV ({describe_error(error)}); give a list like a "
            "run's shots.csv"
        ) from error
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise InputError(
            f"REFERENCES: {path} has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
        )
    return table


def reference_rows(category: str, runs: Sequence[Run]) -> list[tuple[str, int, int, str]]:
    """The rows of shots.csv for one category."""
    return [(category, run.shots, run.seed, image) for run in runs for image in run.images]

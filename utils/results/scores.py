"""What a run keeps of one category: every image score and every anomaly map, as small files.

`save_scores` writes an NPZ file without pickled objects, from which the metrics and the heat maps
can be made again without the model; `write_score_table` writes the image scores as a CSV file.
"""

import csv
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tokenize import TokenError

import numpy as np

from datasets.references import NO_SEED
from datasets.splits import UNKNOWN
from utils.errors import InputError, describe_error
from utils.files import atomic_path, write_text

# What NumPy and the readers below it raise on a file that is cut short, is no archive, lacks an
# array, claims one too large for memory, or is packed or encrypted in a way of its own.
DAMAGED = (
    *(OSError, EOFError, MemoryError, RuntimeError, ArithmeticError, SyntaxError, TokenError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(AttributeError, KeyError, TypeError, ValueError),
)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of N test images in R runs; a run is one pair of shots and seed.

    M is the number of square tiles of all images, in the order of the images: M = N where all are
    square. Tiles are G x G patches.
    """

    image: np.ndarray  # (N,) str: paths relative to the data root
    label: np.ndarray  # (N,) int: 0 good, 1 anomalous, UNKNOWN
    shots: np.ndarray  # (R,) int
    seed: np.ndarray  # (R,) int; NO_SEED for 0 shots
    image_scores: np.ndarray  # (R, N) float32
    maps: np.ndarray  # (R, M, G, G) float32
    tiles: np.ndarray  # (N,) int: how many tiles each image has
    size: np.ndarray  # (N, 2) int: height and width of the source image in pixels

    def first_runs(self) -> list[int]:
        """The first run of each number of shots, fewest shots first: the ones that are drawn."""
        shots = self.shots.tolist()
        return [shots.index(count) for count in sorted(set(shots))]

    def run_names(self) -> list[str]:
        """`["0-shot", "1-shot seed 0", ...]`: a name for each of the R runs."""
        return [
            f"{shots}-shot" if seed == NO_SEED else f"{shots}-shot seed {seed}"
            for shots, seed in zip(self.shots.tolist(), self.seed.tolist(), strict=True)
        ]


def save_scores(path: Path, scores: Scores) -> None:
    """Write `scores` to `path` (NPZ), atomically; `InputError` where `scores` is inconsistent."""
    check_scores(scores, path)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **vars(scores))


def load_scores(path: Path) -> Scores:
    """Read what `save_scores` wrote; `InputError` where it is missing, damaged or inconsistent."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            scores = Scores(**{field.name: archive[field.name] for field in fields(Scores)})
        check_scores(scores, path)
        return scores
    except FileNotFoundError as error:
        raise InputError(f"no score file {path}; run the benchmark to write it") from error
    except DAMAGED as error:
        raise unreadable(path, describe_error(error)) from error


def write_score_table(path: Path, scores: Scores, defect: Sequence[str]) -> None:
    """Write one row per image: `image,label,defect`, then its score in each of the R runs.

    `defect` names the defect folder of each of the N images ("good" where there is none). Scores
    have as many digits as tell one float32 from the next.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "defect", *scores.run_names()])
    columns = scores.image.tolist(), scores.label.tolist(), defect, scores.image_scores.T
    for image, label, folder, row in zip(*columns, strict=True):
        writer.writerow([image, label, folder, *map(str, row.astype(np.float32))])
    write_text(path, text.getvalue())


def check_scores(scores: Scores, path: Path) -> None:
    """Raise `InputError`, naming `path`, unless every array has its type, shape and range."""
    n, r, m = len(scores.image), len(scores.shots), int(scores.tiles.sum())
    grid = scores.maps.shape[-1] if scores.maps.ndim else 0
    expected = {
        "image": ("U", (n,)),
        "label": ("iub", (n,)),
        "shots": ("iu", (r,)),
        "seed": ("i", (r,)),
        "image_scores": ("f", (r, n)),
        "maps": ("f", (r, m, grid, grid)),
        "tiles": ("iu", (n,)),
        "size": ("iu", (n, 2)),
    }
    for name, (kinds, shape) in expected.items():
        array = getattr(scores, name)
        if array.dtype.kind not in kinds or array.shape != shape:
            raise unreadable(path, f"{name} is {array.dtype} {array.shape}, expected {shape}")
        if kinds == "f" and (array.dtype != np.float32 or not np.isfinite(array).all()):
            raise unreadable(path, f"{name} must be float32 and finite")
    if not np.isin(scores.label, (UNKNOWN, 0, 1)).all() or (scores.tiles < 1).any():
        raise unreadable(path, "labels must be 0, 1 or -1 (unknown), and every image needs a tile")
    if ((scores.shots == 0) != (scores.seed == NO_SEED)).any():
        raise unreadable(path, f"0-shot runs, and only they, have the seed {NO_SEED}")


def unreadable(path: Path, reason: str) -> InputError:
    """The error for a score file that cannot be used."""
    return InputError(f"{path} is no usable score file: {reason}; delete it and run again")

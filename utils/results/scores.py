"""Store what a run keeps of one category: every image score and, if it has maps, every map.

`save_scores` writes an NPZ file without pickled objects, from which metrics and heatmaps can be
computed again without the model; `write_score_table` writes the image scores as a CSV file.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from datasets.references import NO_SEED
from datasets.splits import UNKNOWN
from utils.errors import InputError, describe_error
from utils.evaluation.stitching import StitchedMaps
from utils.files import atomic_path, write_text
from utils.results.thresholds import Threshold

OPTIONAL = ("maps", "blur", "variant")  # fields of `Scores` that a file may lack


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of N test images in R runs; a run is one (shots, seed) pair.

    M is the total number of square tiles, in the order of the images; M = N where all images are
    square. Tiles are G x G patches.
    """

    image: np.ndarray  # (N,) str: paths relative to the data root
    label: np.ndarray  # (N,) int: 0 good, 1 anomalous, or UNKNOWN
    shots: np.ndarray  # (R,) int
    seed: np.ndarray  # (R,) int; NO_SEED for 0 shots and for the references of custom images
    image_scores: np.ndarray  # (R, N) float32
    maps: np.ndarray | None  # (R, M, G_h, G_w) float32; None for a run without maps
    tiles: np.ndarray  # (N, 2) int: rows and columns of the tiles of each image
    tile_side: np.ndarray  # (N,) int: side of these tiles, in pixels of the source image
    size: np.ndarray  # (N, 2) int: height and width of the source image in pixels
    blur: float = 0.0  # standard deviation of the Gaussian over upsampled maps, in patches
    variant: str = ""  # of the method in runs with references; see `variant_of`

    def first_runs(self) -> list[int]:
        """Return the index of the first run of each number of shots, fewest shots first.

        Heatmaps and the report show these runs.
        """
        shots = self.shots.tolist()
        return [shots.index(count) for count in sorted(set(shots))]

    def rows(self, indices: Sequence[int]) -> "Scores":
        """Return the scores of one or more images, in the order of `indices`."""
        counts = self.tiles.prod(axis=1)
        ends = counts.cumsum()
        tiles = [np.arange(ends[index] - counts[index], ends[index]) for index in indices]
        per_image = ("image", "label", "tiles", "tile_side", "size")
        return replace(
            self,
            image_scores=self.image_scores[:, indices],
            maps=None if self.maps is None else np.take(self.maps, np.concatenate(tiles), axis=1),
            **{name: getattr(self, name)[indices] for name in per_image},
        )

    def stitched(self, run: int, shapes: Sequence[tuple[int, int]]) -> StitchedMaps:
        """Return the N maps of one run at N shapes (height, width), computed when they are read."""
        sides = self.tile_side / self.size.min(axis=1)
        return StitchedMaps(self.maps[run], self.tiles, sides, shapes, self.blur)

    def run_names(self) -> list[str]:
        """Return a name for each of the R runs: `["0-shot", "1-shot seed 0", ...]`."""
        runs = zip(self.shots.tolist(), self.seed.tolist(), strict=True)
        return [run_name(shots, seed, self.variant) for shots, seed in runs]


def run_name(shots: int, seed: int = NO_SEED, variant: str = "") -> str:
    """Return the name of a run, or of all runs with this number of shots if no seed is given.

    >>> run_name(1, 3), run_name(4, variant="patch tokens"), run_name(0, variant="patch tokens")
    ('1-shot seed 3', '4-shot, patch tokens', '0-shot')
    """
    name = f"{shots}-shot" if seed == NO_SEED else f"{shots}-shot seed {seed}"
    return f"{name}, {variant}" if shots and variant else name


def shortest_float(score: float) -> float:
    """Return a float32 score as the float with the fewest digits that identify it."""
    return float(str(np.float32(score)))


def save_scores(path: Path, scores: Scores) -> None:
    """Write `scores` to `path` (NPZ), atomically.

    Maps, blur and variant are left out if there are none. Raise `InputError` if a score is not
    finite, for example after an overflow in fp16.
    """
    stored = {name: value for name, value in vars(scores).items() if value is not None}
    for name in ("blur", "variant"):
        if not stored[name]:
            del stored[name]
    if not all(np.isfinite(stored[n]).all() for n in ("image_scores", "maps") if n in stored):
        raise InputError(
            f"the scores for {path} are not all finite numbers; use --precision fp32, and check "
            "the weights"
        )
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **stored)


def load_scores(path: Path) -> Scores:
    """Read a file written by `save_scores`; raise `InputError` if it is missing or damaged."""
    names = [field.name for field in fields(Scores)]
    arrays = load_arrays(path, [name for name in names if name not in OPTIONAL], OPTIONAL)
    scalars = {name: arrays[name].item() for name in ("blur", "variant") if name in arrays}
    return Scores(**{"maps": None, **arrays, **scalars})


def load_arrays(
    path: Path, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read some fields of `Scores` by name, the `optional` ones if they are stored.

    Raise like `load_scores`.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            stored = [name for name in optional if name in archive]
            return {name: archive[name] for name in (*names, *stored)}
    except FileNotFoundError as error:
        raise InputError(f"there is no score file {path}; run the benchmark to write it") from error
    except Exception as error:  # NumPy and zipfile document no common base class for damaged files
        raise InputError(
            f"{path} is damaged ({describe_error(error)}); delete it and done/{path.stem}.json, "
            "then run again"
        ) from error


def write_score_table(
    path: Path,
    scores: Scores,
    defects: Mapping[str, str],
    threshold: Threshold | None = None,
) -> None:
    """Write one row per image: `image,label,defect`, then its score in each of the R runs.

    `defects` maps each image to the name of its defect folder ("good" for a good image); label and
    defect are empty for an unlabelled image. Scores have the fewest digits that identify their
    float32 value. With a threshold of the last run, `threshold,above_threshold` (0 or 1) follow.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["threshold", "above_threshold"] if threshold else []
    writer.writerow(["image", "label", "defect", *scores.run_names(), *names])
    columns = scores.image.tolist(), scores.label.tolist(), scores.image_scores.T
    for image, label, row in zip(*columns, strict=True):
        labels = ["", ""] if label == UNKNOWN else [label, defects[image]]
        values = [*map(str, row.astype(np.float32))]
        if threshold:
            values += [str(np.float32(threshold.value)), int(threshold.exceeded_by(row[-1]))]
        writer.writerow([image, *labels, *values])
    write_text(path, text.getvalue())

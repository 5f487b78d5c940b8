"""Collect what one category contributes to report.html: numbers, curves, thumbnails, small maps.

It is written to report/<category>.json in the result folder, so that the page can be written
without the images. "Shown runs" are the first run of each number of shots.

runs        one object per shown run, fewest shots first
  name        string: "0-shot", "1-shot seed 0"
  shots       integer
  seed        integer; -1 (NO_SEED) if nothing was drawn
  threshold   image score from which images are called anomalous for the highest F1, or null;
              the page uses the threshold from the references instead where there is one
  scale       [low, high]: the scores at both ends of the heatmaps' colours; null without maps
  curves      metric name to [[x, y], ...], both in [0, 1], x ascending; [] if undefined; those of
              pixels only with maps
images      one object per test image, in the order of the split
  image       string: path relative to the data root
  defect      string: name of the defect folder, "good" for a good image
  label       integer: 0 good, 1 anomalous, -1 (UNKNOWN)
  panel       string: path of the heatmap panel relative to the result folder, "" if not drawn
  thumbnail   string: a JPEG file in base64
  outline     string: SVG path of the border of the mask, both axes from 0 to 1000; "" if empty
  size        [height, width] of the source image in pixels
  scores      the image score in each shown run
  maps        for each shown run {rows, columns, levels}: integers, and rows x columns bytes in
              base64, row by row; 0 and 255 are the ends of the run's scale; [] without maps
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from datasets.splits import UNKNOWN, Sample
from utils.evaluation.curves import Curve
from utils.evaluation.stitching import stitch_tiles
from utils.files import write_text
from utils.report.markdown import UNDEFINED
from utils.results.folder import read_json
from utils.results.heatmaps import ColourRange, colour_range, score_levels
from utils.results.scores import Scores, shortest_float
from utils.results.thresholds import F1_MAX, Threshold, f1_threshold, reference_threshold

OUTLINE_UNIT = 1000  # coordinates of a mask's outline go from 0 to this along both axes
OUTLINE_TOLERANCE = 0.003  # of the longer side: less than half a pixel of a thumbnail
MAX_CELLS = 128  # of a stitched map along the image's longer side
SUPERSAMPLING = 8  # stitched maps are enlarged by this and averaged, so tiles need not align

CORRECT, MISSED, FALSE_ALARM = "correct", "missed", "false alarm"  # outcomes, or UNDEFINED


def category_data(
    tests: Sequence[Sample],
    scores: Scores,
    masks: Sequence[np.ndarray],
    thumbnails: Sequence[bytes],
    curves: Mapping[int, Mapping[str, Curve]],
    panels: Mapping[str, str],
) -> dict:
    """Return the content of report/<category>.json, as described above.

    `tests`, `masks` (N of (H_i, W_i) bool) and `thumbnails` (N JPEG files) are in the order of
    `scores.image`. `curves` maps the index of each shown run to its curves, `panels` the image of
    each drawn heatmap panel to the panel's path.
    """
    shown = scores.first_runs()
    has_maps = scores.maps is not None
    scales = [colour_range(scores.maps[run]) if has_maps else None for run in shown]
    images = [
        {
            "image": sample.image,
            "defect": sample.defect,
            "label": sample.label,
            "panel": panels.get(sample.image, ""),
            "thumbnail": base64.b64encode(thumbnail).decode("ascii"),
            "outline": outline(mask),
        }
        | image_data(scores, index, shown, scales)
        for index, (sample, mask, thumbnail) in enumerate(
            zip(tests, masks, thumbnails, strict=True)
        )
    ]
    runs = [
        run_data(scores, run, scale, curves[run]) for run, scale in zip(shown, scales, strict=True)
    ]
    return {"runs": runs, "images": images}


def image_data(
    scores: Scores, index: int, shown: Sequence[int], scales: Sequence[ColourRange | None]
) -> dict:
    """Return the size of one image, and its scores and small maps in the shown runs."""
    values = [shortest_float(scores.image_scores[run, index]) for run in shown]
    data = {"size": tuple(scores.size[index].tolist()), "scores": values, "maps": []}
    if scores.maps is None:
        return data
    size, grid = data["size"], tuple(scores.tiles[index].tolist())
    start = int(scores.tiles[:index].prod(axis=1).sum())
    maps = scores.maps[shown, start : start + grid[0] * grid[1]]
    side = scores.tile_side[index] / min(size)
    stitched = (patch_map(tiles, size, grid, side) for tiles in maps)
    return data | {"maps": list(map(small_map, stitched, scales))}


def run_data(
    scores: Scores, run: int, scale: ColourRange | None, curves: Mapping[str, Curve]
) -> dict:
    """Return the name, threshold, colour scale and curves of one run."""
    threshold = f1_threshold(scores.image_scores[run], scores.label)
    return {
        "name": scores.run_names()[run],
        "shots": int(scores.shots[run]),
        "seed": int(scores.seed[run]),
        "threshold": threshold and shortest_float(threshold.value),
        "scale": scale,
        "curves": {name: np.round(curve, 4).tolist() for name, curve in curves.items()},
    }


def write_category_data(folder: Path, category: str, data: dict) -> None:
    """Write report/<category>.json into the result folder `folder`, atomically."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    write_text(folder / "report" / f"{category}.json", text + "\n")


def read_category_data(folder: Path, category: str) -> dict:
    """Read report/<category>.json; a damaged file is an `InputError`."""
    return read_json(folder / "report" / f"{category}.json", "runs", "images")


def thresholds_of(data: Mapping, record: Mapping, rate: float | None) -> list[Threshold | None]:
    """Return the threshold of each shown run: of F1-max, or from the references where they have it.

    `data` is report/<category>.json, `record` done/<category>.json, `rate` the setting
    `false_alarms`.
    """
    thresholds = [
        None if run["threshold"] is None else Threshold(run["threshold"], F1_MAX)
        for run in data["runs"]
    ]
    return [*thresholds[:-1], reference_threshold(record, rate) or thresholds[-1]]


def outcome(score: float, label: int, threshold: Threshold | None) -> str:
    """Judge the image-level decision against the label."""
    if threshold is None or label == UNKNOWN:
        return UNDEFINED
    called_anomalous = threshold.exceeded_by(score)
    if called_anomalous == bool(label):
        return CORRECT
    return FALSE_ALARM if called_anomalous else MISSED


def outline(mask: np.ndarray) -> str:
    """Trace a mask (H, W) bool as an SVG path in units of OUTLINE_UNIT; "" for an empty mask.

    >>> outline(np.array([[True, False], [False, False]]))
    'M250 250h0'
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    tolerance = OUTLINE_TOLERANCE * max(mask.shape)
    corners = [cv2.approxPolyDP(contour, tolerance, True)[:, 0] for contour in contours]
    return svg_path(corners, mask.shape)


def svg_path(contours: Iterable[Sequence], size: Sequence[int]) -> str:
    """Return contours, (x, y) in pixels, as an SVG path in units of OUTLINE_UNIT along both axes.

    `size` is the image's (height, width).

    >>> svg_path([[[0, 0], [9, 0], [9, 4]]], (10, 20))
    'M25 50L475 50L475 450z'
    """
    height, width = size
    path = []
    for contour in contours:
        scaled = np.rint((np.asarray(contour) + 0.5) * OUTLINE_UNIT / (width, height)).astype(int)
        points = [f"{x} {y}" for x, y in scaled.tolist()]
        # The round line ends draw a single point as a dot.
        path.append(f"M{'L'.join(points)}{'z' if len(points) > 1 else 'h0'}")
    return "".join(path)


def patch_map(
    tiles: np.ndarray, size: tuple[int, int], grid: tuple[int, int], side: float
) -> np.ndarray:
    """Return the map of one image at patch resolution, at most MAX_CELLS along its longer side.

    `tiles` (T, G, G) are the maps of the image's tiles, `size` its height and width, `grid` and
    `side` as in `stitch_tiles`. A single tile covers the whole image, whatever its aspect. The blur
    is left out: AnomalyCLIP's, of less than half a patch, would not show at this resolution.
    """
    if len(tiles) == 1:
        return tiles[0]
    cells = min(tiles.shape[-1] / side, MAX_CELLS * min(size) / max(size))  # of the shorter side
    rows, columns = (max(1, round(cells * length / min(size))) for length in size)
    fine = stitch_tiles(tiles, (rows * SUPERSAMPLING, columns * SUPERSAMPLING), grid, side)
    return cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA)


def small_map(values: np.ndarray, scale: ColourRange) -> dict:
    """Return a map for the page: its rows, columns and levels in base64."""
    levels = score_levels(values, scale)
    data = base64.b64encode(levels.tobytes()).decode("ascii")
    return {"rows": levels.shape[0], "columns": levels.shape[1], "levels": data}

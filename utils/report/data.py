"""What one category contributes to report.html: numbers, curves, thumbnails and small maps.

Written to report/<category>.json in the result folder, so that the page can be made again after
every category without the images. The first run of each number of shots is shown.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.images import ImageDataset
from datasets.splits import Sample
from utils.evaluation.curves import Curve
from utils.evaluation.metrics import THREADS, f1_max_threshold
from utils.evaluation.stitching import stitch_tiles
from utils.files import write_text
from utils.results.heatmaps import Scale, colour_range
from utils.results.scores import Scores

THUMBNAIL_SIDE = 144  # the longer side, in pixels
THUMBNAIL_QUALITY = 75  # of the JPEG: 1,725 images of MVTec AD are about 12 MB
OUTLINE_UNIT = 1000  # a mask's outline has coordinates from 0 to this, along both sides
OUTLINE_TOLERANCE = 0.003  # of the longer side: less than half a pixel of a thumbnail
FINER = 8  # a stitched map is made this much finer, then averaged, so that tiles fall in place

CORRECT, MISSED, FALSE_ALARM, UNDEFINED = "correct", "missed", "false alarm", "n/a"


def category_data(
    tests: Sequence[Sample],
    scores: Scores,
    masks: Sequence[np.ndarray],
    curves: Mapping[int, Mapping[str, Curve]],
    dataset: ImageDataset,
    panels: Mapping[int, str],
) -> dict:
    """The category's part of the page, as what JSON can hold.

    `masks` N of (H_i, W_i) bool; `curves` of the runs that are shown, by metric; `panels` the
    paths of those heatmap panels that were drawn, by row.
    """
    shown = scores.first_runs()
    scales = [colour_range(scores.maps[run]) for run in shown]
    with ThreadPoolExecutor(THREADS) as pool:
        thumbnails = list(pool.map(lambda sample: thumbnail(dataset.read(sample.image)), tests))
    images = [
        {
            "image": sample.image,
            "defect": sample.defect,
            "label": sample.label,
            "panel": panels.get(row, ""),
            "thumbnail": thumbnails[row],
            "outline": outline(masks[row]),
        }
        | image_scores(scores, row, shown, scales)
        for row, sample in enumerate(tests)
    ]
    runs = [
        run_data(scores, run, scale, curves[run]) for run, scale in zip(shown, scales, strict=True)
    ]
    return {"runs": runs, "images": images}


def image_scores(scores: Scores, row: int, shown: Sequence[int], scales: Sequence[Scale]) -> dict:
    """The size of one image, its scores and its small maps in the runs that are shown."""
    size = tuple(scores.size[row].tolist())
    start = int(scores.tiles[:row].sum())
    maps = scores.maps[shown, start : start + scores.tiles[row]]
    return {
        "size": size,
        "scores": [plain(scores.image_scores[run, row]) for run in shown],
        "maps": [small_map(one, size, scale) for one, scale in zip(maps, scales, strict=True)],
    }


def run_data(scores: Scores, run: int, scale: Scale, curves: Mapping[str, Curve]) -> dict:
    """What is shown of one run besides its images."""
    threshold = f1_max_threshold(scores.image_scores[run], scores.label)
    return {
        "name": scores.run_names()[run],
        "shots": int(scores.shots[run]),
        "seed": int(scores.seed[run]),
        "threshold": None if math.isnan(threshold) else plain(threshold),
        "scale": scale,
        "curves": {name: np.round(curve, 4).tolist() for name, curve in curves.items()},
    }


def write_category_data(folder: Path, category: str, data: dict) -> None:
    """Write report/<category>.json into a result folder, atomically."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    write_text(folder / "report" / f"{category}.json", text + "\n")


def outcome(score: float, label: int, threshold: float | None) -> str:
    """What the image-level decision is worth: anomalous is called from the threshold on."""
    if threshold is None:
        return UNDEFINED
    called = score >= threshold
    if called == bool(label):
        return CORRECT
    return FALSE_ALARM if called else MISSED


def plain(score: float) -> float:
    """A float32 score with the few digits that tell it from its neighbours."""
    return float(str(np.float32(score)))


def thumbnail(image: Image.Image) -> str:
    """A small JPEG of an image, in base64; its own aspect."""
    ratio = THUMBNAIL_SIDE / max(image.size)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    data = BytesIO()
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    small.save(data, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return base64.b64encode(data.getvalue()).decode("ascii")


def outline(mask: np.ndarray) -> str:
    """The border of a mask (H, W) bool as an SVG path in OUTLINE_UNIT; "" where it is empty.

    >>> outline(np.array([[True, False], [False, False]]))
    'M250 250h0'
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    parts = []
    for border in found:
        corners = cv2.approxPolyDP(border, OUTLINE_TOLERANCE * max(mask.shape), True)[:, 0]
        scaled = np.rint((corners + 0.5) * OUTLINE_UNIT / np.array(mask.shape[::-1])).astype(int)
        points = [f"{x} {y}" for x, y in scaled.tolist()]
        # One point is drawn as a dot by its round line ends.
        parts.append(f"M{'L'.join(points)}{'z' if len(points) > 1 else 'h0'}")
    return "".join(parts)


def small_map(maps: np.ndarray, size: tuple[int, int], scale: Scale) -> dict:
    """An image's map at the resolution of patches: rows, columns, and its colours in base64.

    `maps` (T, G, G) of the image's tiles, `size` its height and width; 0 and 255 are the ends of
    `scale`. A single tile is the whole image, whatever its aspect.
    """
    grid = maps.shape[-1]
    values = maps[0]
    if len(maps) > 1:
        rows, columns = (round(grid * side / min(size)) for side in size)
        fine = stitch_tiles(maps, rows * FINER, columns * FINER)
        values = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA)
    low, high = scale
    unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
    levels = np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    data = base64.b64encode(levels.tobytes()).decode("ascii")
    return {"rows": levels.shape[0], "columns": levels.shape[1], "levels": data}

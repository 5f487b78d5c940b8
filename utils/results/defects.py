"""Write the detected defects as objects: defects.json, and defects_coco.json with --coco.

A run without maps has none of these files.

Defects are computed for the run with the most shots (its first seed). Each category is written to
defects/<category>.jsonl: the first line has the rate of false alarms and the entry of the category
(null without a threshold), each further line an image. These files are joined at the end of a run.
Images above the threshold of image scores are searched for defects: connected pixels of the map, at
the image's own resolution, above the threshold of map values. defects.json says where both
thresholds come from.

categories  category name to
  run         name of the run
  threshold, threshold_source              image score: "F1-max" (of the labels) or "references"
  pixel_threshold, pixel_threshold_source  map value: "F1-max" (of the masks), "references", or
              "images below the threshold" (their highest value; labels without masks)
images      one object per image above the threshold
  category, image, size ([height, width] in pixels), score
  defects     the highest peak first; empty if no pixel is above its threshold
    box         [left, top, width, height] in pixels
    area        number of pixels
    peak, mean  of the map values inside
    contours    the border, then those of holes: [[x, y], ...] in pixels, within half a pixel
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from utils.evaluation.metrics import THREADS
from utils.files import write_text
from utils.results.coco import COCO_FILE, write_coco
from utils.results.folder import read_finished, read_json, read_record
from utils.results.methods import has_maps, method_name
from utils.results.scores import Scores, load_scores, shortest_float
from utils.results.thresholds import (
    F1_MAX,
    REFERENCES,
    Threshold,
    conformal_quantile,
    f1_threshold,
    reference_threshold,
)

BELOW = "images below the threshold"  # a source of the threshold of map values
TOLERANCE = 0.5  # of contours, in pixels
FILE = "defects.json"


class Detection(NamedTuple):
    """The thresholds of one category and the index of the run that they apply to."""

    run: int
    image: Threshold
    pixel: Threshold | None  # None if it comes from images below the threshold, and there are none


def write_category_defects(
    folder: Path, category: str, scores: Scores, record: Mapping, rate: float | None
) -> None:
    """Write defects/<category>.jsonl into a result folder, atomically.

    `record` is the category's record in done/, `rate` the setting `false_alarms`.
    """
    detection = find_thresholds(scores, record, rate)
    entry = detection and category_entry(detection, scores)
    images = find_defects(scores, detection) if detection else []
    lines = [{"false_alarms": rate, "category": entry}]
    lines += [{"category": category} | image for image in images]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_text(category_file(folder, category), text)


def category_file(folder: Path, category: str) -> Path:
    """Return the path of defects/<category>.jsonl."""
    return folder / "defects" / f"{category}.jsonl"


def read_category_lines(
    folder: Path, category: str, record: Mapping, rate: float | None
) -> list[str]:
    """Return the lines of defects/<category>.jsonl, after rewriting it if its rate differs."""
    path = category_file(folder, category)
    if not path.exists() or rate_of(path) != rate:
        scores = load_scores(folder / "scores" / f"{category}.npz")
        write_category_defects(folder, category, scores, record, rate)
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def rate_of(path: Path) -> float | None:
    """Return the rate of false alarms in the first line of defects/<category>.jsonl."""
    with path.open(encoding="utf-8") as stream:
        return json.loads(stream.readline())["false_alarms"]


def write_defects(folder: Path) -> list[str]:
    """Write the files described above; return the categories left out, which have no threshold."""
    record = read_record(folder)
    settings = record["settings"]
    if not has_maps(settings):
        return []
    rate = settings.get("false_alarms")
    categories, images, left_out = {}, [], []
    for category, finished in read_finished(folder).items():
        head, *lines = read_category_lines(folder, category, finished, rate)
        entry = json.loads(head)["category"]
        if entry is None:
            left_out.append(category)
            continue
        categories[category] = entry
        images += lines
    for name in (FILE, COCO_FILE):
        (folder / name).unlink(missing_ok=True)  # of an earlier run with another rate
    if not categories:
        return left_out
    lines = ",\n".join(images)
    head = json.dumps(categories, ensure_ascii=False, indent=1)
    write_text(folder / FILE, f'{{"categories": {head},\n"images": [\n{lines}\n]}}\n')
    if settings.get("coco"):
        title = f"defects that {method_name(settings)} detected: {record['title']}"
        write_coco(folder, title, list(categories), [json.loads(line) for line in images])
    return left_out


def read_defects(folder: Path) -> dict[str, dict]:
    """Return the categories of defects.json, each with `images`: the defects by image; or {}."""
    if not (folder / FILE).exists():
        return {}
    content = read_json(folder / FILE, "categories", "images")
    categories = {name: entry | {"images": {}} for name, entry in content["categories"].items()}
    for image in content["images"]:
        categories[image["category"]]["images"][image["image"]] = image["defects"]
    return categories


def find_thresholds(scores: Scores, record: Mapping, rate: float | None) -> Detection | None:
    """Return the thresholds of a category; None without labels and references.

    `record` is the category's record in done/, `rate` the setting `false_alarms`.
    """
    run = scores.first_runs()[-1]
    image = reference_threshold(record, rate) or f1_threshold(
        scores.image_scores[run], scores.label
    )
    if image is None:
        return None
    if record.get("pixel_threshold") is not None:
        return Detection(run, image, Threshold(record["pixel_threshold"], F1_MAX))
    if image.source == REFERENCES:
        peak = conformal_quantile(record["leave_one_out_peaks"], rate)
        return Detection(run, image, Threshold(peak, REFERENCES))
    counts = scores.tiles.prod(axis=1)
    peaks = np.maximum.reduceat(scores.maps[run].max(axis=(1, 2)), counts.cumsum() - counts)
    below = peaks[~image.exceeded_by(scores.image_scores[run])]
    pixel = Threshold(float(below.max()), BELOW) if len(below) else None
    return Detection(run, image, pixel)


def category_entry(detection: Detection, scores: Scores) -> dict:
    """Return the entry of a category in defects.json."""
    pixel = detection.pixel
    return {
        "run": scores.run_names()[detection.run],
        "threshold": shortest_float(detection.image.value),
        "threshold_source": detection.image.source,
        "pixel_threshold": pixel and shortest_float(pixel.value),
        "pixel_threshold_source": pixel and pixel.source,
    }


def find_defects(scores: Scores, detection: Detection) -> list[dict]:
    """Return the entries of the images above the threshold, without their category."""
    values = scores.image_scores[detection.run]
    maps = scores.stitched(detection.run, scores.size.tolist())
    rows = np.flatnonzero(detection.image.exceeded_by(values)).tolist()
    with ThreadPoolExecutor(THREADS) as pool:
        defects = pool.map(lambda row: find_regions(maps[row], detection.pixel), rows)
    return [
        {
            "image": str(scores.image[row]),
            "size": scores.size[row].tolist(),
            "score": shortest_float(values[row]),
            "defects": regions,
        }
        for row, regions in zip(rows, defects, strict=True)
    ]


def find_regions(values: np.ndarray, threshold: Threshold | None) -> list[dict]:
    """Return the connected defects of a map (H, W) float32, the highest peak first.

    Without a threshold, there are none.

    >>> values = np.zeros((4, 5), np.float32)
    >>> values[1, 2:4] = 0.5, 1
    >>> (defect,) = find_regions(values, Threshold(0.25, REFERENCES))
    >>> [defect[key] for key in ("box", "area", "peak", "mean", "contours")]
    [[2, 1, 2, 1], 2, 1.0, 0.75, [[[2, 1], [3, 1]]]]
    """
    if threshold is None:
        return []
    mask = threshold.exceeded_by(values).astype(np.uint8)
    # OpenCV's default algorithm gives the same labels, but takes 2.5 times as long.
    components = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_GRANA)
    count, labels, stats, _ = components
    defects = []
    for label in range(1, count):
        left, top, width, height, area = stats[label].tolist()
        window = np.s_[top : top + height, left : left + width]
        region = labels[window] == label
        inside = values[window][region]
        defects.append(
            {
                "box": [left, top, width, height],
                "area": area,
                "peak": shortest_float(inside.max()),
                "mean": shortest_float(inside.mean(dtype=np.float64)),
                "contours": trace(region, (left, top)),
            }
        )
    return sorted(defects, key=lambda defect: -defect["peak"])


def trace(region: np.ndarray, offset: tuple[int, int]) -> list[list[list[int]]]:
    """Return the outer border of a connected region (H, W) bool, then those of its holes."""
    contours, hierarchy = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=offset
    )
    outer_first = np.argsort(hierarchy[0, :, 3] >= 0, kind="stable")
    return [
        cv2.approxPolyDP(contours[index], TOLERANCE, True)[:, 0].tolist() for index in outer_first
    ]

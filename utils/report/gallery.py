"""Prepare the data of report.html's gallery: an index to filter and sort by, and its images."""

import json
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from utils.report.data import outcome, svg_path
from utils.results.heatmaps import OVERLAY, palette
from utils.results.thresholds import REFERENCES, Threshold

PIXEL_KEYS = ("thumbnail", "outline", "maps")  # most of the bytes of report/<category>.json
Thresholds = Mapping[str, Sequence[Threshold | None]]  # of each shown run, by category


def gallery_index(data: Mapping[str, Mapping], thresholds: Thresholds) -> dict:
    """Return what the gallery filters and sorts by, from the report data of each category.

    `above` is the verdict in each shown run: null without a threshold from references.
    """
    images = [
        {key: image[key] for key in ("image", "defect", "label", "size", "panel", "scores")}
        | {
            "category": index,
            "outcomes": [
                outcome(score, image["label"], threshold)
                for score, threshold in zip(image["scores"], thresholds[name], strict=True)
            ],
            "above": [
                verdict(score, threshold)
                for score, threshold in zip(image["scores"], thresholds[name], strict=True)
            ],
        }
        for index, (name, category) in enumerate(data.items())
        for image in category["images"]
    ]
    categories = [
        {
            "name": name,
            "runs": [
                {key: run[key] for key in ("name", "shots", "scale")}
                | {"threshold": threshold and threshold.value}
                for run, threshold in zip(category["runs"], thresholds[name], strict=True)
            ],
        }
        for name, category in data.items()
    ]
    colours = palette().tolist()
    return {"categories": categories, "images": images, "palette": colours, "overlay": OVERLAY}


def verdict(score: float, threshold: Threshold | None) -> bool | None:
    """Return whether an image is above the threshold from the references; None without one."""
    if threshold is None or threshold.source != REFERENCES:
        return None
    return bool(threshold.exceeded_by(score))


def gallery_images(category: Mapping, detected: Mapping | None) -> dict[str, dict]:
    """Return the thumbnail, outline and maps of each image of a category, by the image's path.

    `detected` is the category's entry of `read_defects`. An image in it also has `defects`: their
    borders as an SVG path like the outline, with a caption.
    """
    images = {}
    for image in category["images"]:
        pixels = {key: image[key] for key in PIXEL_KEYS}
        defects = detected["images"].get(image["image"]) if detected else None
        if defects is not None:
            paths = [svg_path(defect["contours"], image["size"]) for defect in defects]
            pixels["defects"] = {"path": "".join(paths), "caption": caption(defects, detected)}
        images[image["image"]] = pixels
    return images


def caption(defects: Sequence[Mapping], detected: Mapping) -> str:
    """Return the caption of an image's defects, with the run and the threshold of its map."""
    if detected["pixel_threshold"] is None:
        return "no map threshold, because every image is above the score threshold"
    count = f"{len(defects)} defect{'' if len(defects) == 1 else 's'} detected"
    if not defects:
        count = "no defect detected: no pixel reaches the map threshold"
    return f"{count}; {detected['run']}, map threshold {detected['pixel_threshold']:.4f}"


def without_pixels(category: Mapping) -> dict:
    """Return the report data of a category without what `gallery_images` returns."""
    images = [
        {key: value for key, value in image.items() if key not in PIXEL_KEYS}
        for image in category["images"]
    ]
    return {**category, "images": images}


def script_json(value: object) -> Markup:
    """Return JSON for a script element; without "<", so that no text can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))

"""Prepare the data of report.html's gallery: an index to filter and sort by, and its images."""

import json
from collections.abc import Mapping

from markupsafe import Markup

from utils.report.data import outcome
from utils.results.heatmaps import OVERLAY, palette

PIXEL_KEYS = ("thumbnail", "outline", "maps")  # most of the bytes of report/<category>.json


def gallery_index(data: Mapping[str, Mapping]) -> dict:
    """Return what the gallery filters and sorts by, from the report data of each category."""
    images = [
        {key: image[key] for key in ("image", "defect", "label", "size", "panel", "scores")}
        | {
            "category": index,
            "outcomes": [
                outcome(score, image["label"], run["threshold"])
                for score, run in zip(image["scores"], category["runs"], strict=True)
            ],
        }
        for index, category in enumerate(data.values())
        for image in category["images"]
    ]
    run_keys = ("name", "shots", "threshold", "scale")
    categories = [
        {"name": name, "runs": [{key: run[key] for key in run_keys} for run in category["runs"]]}
        for name, category in data.items()
    ]
    colours = palette().tolist()
    return {"categories": categories, "images": images, "palette": colours, "overlay": OVERLAY}


def gallery_images(category: Mapping) -> dict[str, dict]:
    """Return the thumbnail, outline and maps of each image of a category, by the image's path."""
    return {image["image"]: {key: image[key] for key in PIXEL_KEYS} for image in category["images"]}


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

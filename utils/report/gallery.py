"""The data of report.html's gallery: what it filters and sorts by, and its pictures."""

import json
from collections.abc import Mapping

from markupsafe import Markup

from utils.report.data import outcome
from utils.results.heatmaps import OVERLAY, palette

PICTURES = ("thumbnail", "outline", "maps")


def gallery_index(data: Mapping[str, Mapping]) -> dict:
    """What the gallery filters and sorts by; its pictures stand apart, read when they are shown."""
    images = [
        {key: one[key] for key in ("image", "defect", "label", "size", "panel", "scores")}
        | {
            "category": number,
            "row": row,
            "outcomes": [
                outcome(score, one["label"], run["threshold"])
                for score, run in zip(one["scores"], part["runs"], strict=True)
            ],
        }
        for number, part in enumerate(data.values())
        for row, one in enumerate(part["images"])
    ]
    categories = [
        {
            "name": name,
            "runs": [
                {key: run[key] for key in ("name", "shots", "threshold", "scale")}
                for run in part["runs"]
            ],
        }
        for name, part in data.items()
    ]
    colours = palette().tolist()
    return {"categories": categories, "images": images, "palette": colours, "overlay": OVERLAY}


def gallery_pictures(part: Mapping) -> list[dict]:
    """The thumbnails, outlines and maps of one category."""
    return [{key: one[key] for key in PICTURES} for one in part["images"]]


def without_pictures(part: Mapping) -> dict:
    """A category's data but for what `gallery_pictures` gives."""
    images = [{key: one[key] for key in one if key not in PICTURES} for one in part["images"]]
    return {**part, "images": images}


def script_json(value: object) -> Markup:
    """JSON for a script element: no "<" in it, so no text can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))

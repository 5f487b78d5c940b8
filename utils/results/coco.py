"""Write the detected defects of a run in COCO's format."""

import json
from pathlib import Path

from utils.files import write_text
from utils.results.scores import load_scores

COCO_FILE = "defects_coco.json"


def write_coco(folder: Path, title: str, categories: list[str], images: list[dict]) -> None:
    """Write defects_coco.json; the arguments are those of `coco`."""
    sizes = []
    for category in categories:
        scores = load_scores(folder / "scores" / f"{category}.npz")
        sizes += zip(scores.image.tolist(), scores.size.tolist(), strict=True)
    content = coco(title, categories, images, sizes)
    write_text(folder / COCO_FILE, json.dumps(content, ensure_ascii=False) + "\n")


def coco(title: str, categories: list[str], images: list[dict], sizes: list[tuple]) -> dict:
    """Return the defects in COCO's format, with their peak as score.

    `title` describes the file; `images` are those of defects.json; `sizes` has the path and
    [height, width] of every image, with or without defects. A polygon is the outer border, or the
    box if the border has fewer than three points; holes only reduce the area.
    """
    ids = {name: index for index, name in enumerate((name for name, _ in sizes), start=1)}
    annotations = []
    for image in images:
        for defect in image["defects"]:
            left, top, width, height = defect["box"]
            right, bottom = left + width, top + height
            polygon = defect["contours"][0]
            if len(polygon) < 3:
                polygon = [[left, top], [right, top], [right, bottom], [left, bottom]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": ids[image["image"]],
                    "category_id": categories.index(image["category"]) + 1,
                    "segmentation": [[number for point in polygon for number in point]],
                    "bbox": defect["box"],
                    "area": defect["area"],
                    "iscrowd": 0,
                    "score": defect["peak"],
                }
            )
    return {
        "info": {"description": title},
        "images": [
            {"id": ids[name], "file_name": name, "height": height, "width": width}
            for name, (height, width) in sizes
        ],
        "categories": [
            {"id": index, "name": name, "supercategory": "defect"}
            for index, name in enumerate(categories, start=1)
        ],
        "annotations": annotations,
    }

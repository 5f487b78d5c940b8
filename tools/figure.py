"""Draw the grid figure of a paper from finished runs, without a model.

    python tools/figure.py    # of result/demo/, into result/demo/figure.png
    python tools/figure.py --result result/mvtec --categories bottle grid --shots 0 1 4
    python tools/figure.py --result result/mvtec result/mvtec-public --shots 0 4

Rows are categories; columns are a test image, its ground truth, and for each result folder its map
at each number of shots (first seed), on one colour scale per category and column as in the
heatmaps. Each category is represented by the anomalous image with the median score in the first of
these columns: neither the best nor the worst.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

if __package__ in (None, ""):  # run as a script: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.decode import read_image, read_mask
from datasets.splits import Sample, read_split
from utils.cli import default_text, parse_options, run_cli
from utils.errors import InputError
from utils.files import PROJECT, atomic_path
from utils.results.folder import read_finished, read_json
from utils.results.heatmaps import (
    BACKGROUND,
    INK,
    WARNING,
    colour_range,
    draw_contour,
    font,
    overlay,
    wrap_words,
)
from utils.results.methods import has_maps
from utils.results.scores import Scores, load_scores

GAP, MARGIN = 8, 12  # between and around the images, in pixels
FONT_SIZE = 20  # in pixels
NOTE_SIZE, NOTE_LINE = 14, 22  # font size and line height of the note below the grid, in pixels
HEADER_HEIGHT = 34  # of the line with the titles of the columns, in pixels


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    result: tuple[Path, ...] = (PROJECT / "result" / "demo",)
    """Folders of finished runs on the same images, such as other protocols or weights."""
    categories: Annotated[tuple[str, ...], default_text("all that are finished")] = ()
    """Categories to draw, one per row."""
    shots: Annotated[tuple[int, ...], default_text("all")] = ()
    """Numbers of shots to draw, one column each for every result."""
    cell: int = 240
    """Height of each image in the figure, in pixels."""
    output: Annotated[Path | None, default_text("figure.png in the first result", "PATH")] = None
    """PNG file to write."""


def draw_figure(options: Options) -> Path:
    """Draw the figure of one or more runs and return the file written.

    Raise `InputError` for a category, image or number of shots that a run does not have.
    """
    folders = [folder.expanduser() for folder in options.result]
    root, samples = read_source(folders[0])
    names = list(options.categories) or list(read_finished(folders[0]))
    if not names:
        raise InputError(f"{folders[0]} has no finished category; run the benchmark first")
    columns, titles = [], ["image", "ground truth"]
    for folder in folders:
        result = read_scores(folder, names)
        run = f"{folder.resolve().name}\n" if len(folders) > 1 else ""
        for count in options.shots or sorted(set(result[names[0]].shots.tolist())):
            columns.append((result, count))
            titles.append(f"{run}{count}-shot")
    rows = [
        draw_row([(scores[name], count) for scores, count in columns], root, samples, options.cell)
        for name in names
    ]
    notes = [read_json(folder / "settings.json", "notes")["notes"] for folder in folders]
    note = ". ".join(dict.fromkeys(text for texts in notes for text in texts))
    sheet = lay_out(rows, names, titles, note)
    output = options.output.expanduser() if options.output else folders[0] / "figure.png"
    with atomic_path(output) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    print(f"wrote {output}")
    return output


def read_scores(folder: Path, names: Sequence[str]) -> dict[str, Scores]:
    """Return the scores of some categories of a run.

    Raise `InputError` if one is not finished, and for a run without maps.
    """
    finished = read_finished(folder)
    if not has_maps(read_json(folder / "settings.json", "settings")["settings"]):
        raise InputError(
            f"{folder} was run without maps, which the figure shows; give the result folder of a "
            "run with maps"
        )
    for name in names:
        if name not in finished:
            known = ", ".join(finished) or "none"
            raise InputError(f'{folder} has no finished category "{name}"; it has {known}')
    return {name: load_scores(folder / "scores" / f"{name}.npz") for name in names}


def read_source(folder: Path) -> tuple[Path, dict[str, Sample]]:
    """Return the data root of a run, and the samples of its split by image path.

    Raise `InputError` if there is no split, as for custom images.
    """
    settings = read_json(folder / "settings.json", "settings")["settings"]
    if not Path(settings["split"]).is_file():
        raise InputError(
            f'{folder} has no split file (its split is "{settings["split"]}"), which the figure '
            "needs; give the result folder of a benchmark, or prepare its split again"
        )
    samples = read_split(Path(settings["split"]))
    return Path(settings["data_root"]), {sample.image: sample for sample in samples}


def draw_row(
    columns: Sequence[tuple[Scores, int]], root: Path, samples: dict[str, Sample], cell: int
) -> list[np.ndarray]:
    """Draw the images of one category: (cell, width, 3) uint8 each, of equal width.

    Each column is the map of a result's scores at a number of shots.
    """
    scores, shots = columns[0]
    name = str(scores.image[median_anomalous(scores, first_run(scores, shots))])
    sample = samples.get(name)
    if sample is None:
        raise InputError(
            f"{name} is no longer in the split; run the benchmark again, or restore its split"
        )
    if not sample.mask:
        raise InputError(
            f"{sample.image} has no mask for the column of ground truth; leave "
            f"{sample.class_name} out with --categories"
        )
    image = read_image(root / sample.image)
    mask = read_mask(root / sample.mask, image.size)
    width = round(cell * image.width / image.height)
    resized = cv2.resize(np.asarray(image), (width, cell), interpolation=cv2.INTER_AREA)
    row = [resized, draw_contour(resized, mask)]
    for scores, shots in columns:
        index = np.flatnonzero(scores.image == name)
        if not len(index):
            raise InputError(f"a result has no scores of {name}; give results on the same images")
        run = first_run(scores, shots)
        values = scores.stitched(run, [tuple(size) for size in scores.size.tolist()])[index[0]]
        row.append(overlay(resized, values, colour_range(scores.maps[run])))
    return row


def first_run(scores: Scores, shots: int) -> int:
    """Return the index of the first run with this number of shots; `InputError` if none has."""
    runs = np.flatnonzero(scores.shots == shots)
    if not len(runs):
        known = ", ".join(map(str, sorted(set(scores.shots.tolist()))))
        raise InputError(f"--shots {shots}: there is no {shots}-shot run; the result has {known}")
    return int(runs[0])


def median_anomalous(scores: Scores, run: int) -> int:
    """Return the index of the anomalous image with the (upper) median score of the anomalous ones.

    Raise `InputError` if the category has none.
    """
    anomalous = np.flatnonzero(scores.label == 1)
    if not len(anomalous):
        raise InputError("a category without anomalous images has nothing to show; leave it out")
    order = anomalous[np.argsort(scores.image_scores[run, anomalous], kind="stable")]
    return int(order[len(order) // 2])


def lay_out(
    rows: list[list[np.ndarray]], names: list[str], titles: list[str], note: str
) -> Image.Image:
    """Arrange images in a grid: titles above the columns, names rotated to the left of the rows.

    `note`, such as a warning about the weights, is written below the grid.
    """
    letters = font(FONT_SIZE)
    left = MARGIN + FONT_SIZE + GAP + 4
    widths = [max(row[column].shape[1] for row in rows) for column in range(len(titles))]
    header = HEADER_HEIGHT + (FONT_SIZE + 4) * any("\n" in title for title in titles)
    height = MARGIN + header + sum(row[0].shape[0] + GAP for row in rows) - GAP + MARGIN
    grid_width = sum(widths) + GAP * (len(widths) - 1)
    lines = wrap_words(note, NOTE_SIZE, grid_width)
    size = left + grid_width + MARGIN, height + NOTE_LINE * len(lines)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    x = left
    for title, width in zip(titles, widths, strict=True):
        position = (x + width / 2, MARGIN + header / 2 - 4)
        shown = "\n".join(shorten(line, width, letters) for line in title.split("\n"))
        draw.text(position, shown, INK, letters, anchor="mm", align="center")
        x += width + GAP
    y = MARGIN + header
    for name, row in zip(names, rows, strict=True):
        row_height = row[0].shape[0]
        label = Image.new("RGB", (row_height, FONT_SIZE + 8), BACKGROUND)
        position = (row_height / 2, FONT_SIZE / 2 + 2)
        text = name.replace("_", " ")
        ImageDraw.Draw(label).text(position, text, INK, letters, anchor="mm")
        sheet.paste(label.rotate(90, expand=True), (MARGIN - 4, y))
        x = left
        for image, width in zip(row, widths, strict=True):
            sheet.paste(Image.fromarray(image), (x + (width - image.shape[1]) // 2, y))
            x += width + GAP
        y += row_height + GAP
    for index, line in enumerate(lines):
        position = (left, height - 4 + NOTE_LINE * index)
        draw.text(position, line, WARNING, font(NOTE_SIZE, line.isascii()))
    return sheet


def shorten(text: str, width: float, letters: ImageFont.FreeTypeFont) -> str:
    """Cut text to a width in pixels."""
    shown = text
    while letters.getlength(shown) > width and len(shown) > 1:
        shown = f"{shown[:-2]}…"
    return shown


if __name__ == "__main__":
    run_cli(lambda: draw_figure(parse_options(Options(), __doc__, Path(__file__))))

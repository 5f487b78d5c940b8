"""Draw the grid figure of a paper from a finished run, without a model.

    python tools/figure.py    # of result/demo/, into result/demo/figure.png
    python tools/figure.py --result result/mvtec --categories bottle grid --shots 0 1 4

Rows are categories; columns are a test image, its ground truth, and its map in the first run of
each number of shots, on one colour scale per category and column as in the run's heatmaps. Each
category is represented by the anomalous image with the median score at the first of the shots:
neither the best nor the worst.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a script: import from the project, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.decode import read_image, read_mask
from datasets.splits import Sample, read_split
from utils.cli import parse_options, run_cli
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
)
from utils.results.scores import Scores, load_scores

GAP, MARGIN = 8, 12  # between and around the images, in pixels
FONT_SIZE = 20  # in pixels
NOTE_SIZE, NOTE_HEIGHT = 14, 26  # of the line below the grid, in pixels
HEADER_HEIGHT = 34  # of the line with the titles of the columns, in pixels


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    result: Path = PROJECT / "result" / "demo"
    """Folder of a finished run."""
    categories: tuple[str, ...] = ()
    """Rows; default: every finished category."""
    shots: tuple[int, ...] = ()
    """Columns; default: every number of shots of the run."""
    cell: int = 240
    """Height of an image in pixels."""
    output: Path | None = None
    """PNG file to write; default: figure.png in the result folder."""


def draw_figure(options: Options) -> Path:
    """Draw the figure of a run and return the file written.

    Raise `InputError` for a category or number of shots that the run does not have.
    """
    folder = options.result.expanduser()
    root, samples = read_source(folder)
    finished = list(read_finished(folder))
    names = list(options.categories) or finished
    if not names:
        raise InputError(f"{folder} has no finished category; run the benchmark first")
    for name in names:
        if name not in finished:
            known = ", ".join(finished) or "none"
            raise InputError(f'{folder} has no finished category "{name}"; it has {known}')
    scores = {name: load_scores(folder / "scores" / f"{name}.npz") for name in names}
    shots = list(options.shots) or sorted(set(scores[names[0]].shots.tolist()))
    rows = [draw_row(scores[name], root, samples, shots, options.cell) for name in names]
    titles = ["image", "ground truth", *(f"{count}-shot" for count in shots)]
    notes = read_json(folder / "settings.json", "notes")["notes"]
    sheet = lay_out(rows, names, titles, "; ".join(notes))
    output = options.output.expanduser() if options.output else folder / "figure.png"
    with atomic_path(output) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    print(f"wrote {output}")
    return output


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
    scores: Scores, root: Path, samples: dict[str, Sample], shots: Sequence[int], cell: int
) -> list[np.ndarray]:
    """Draw the images of one category: (cell, width, 3) uint8 each, of equal width."""
    runs = [first_run(scores, count) for count in shots]
    index = median_anomalous(scores, runs[0])
    sample = samples.get(str(scores.image[index]))
    if sample is None:
        raise InputError(f"{scores.image[index]} is no longer in the split; run again")
    image = read_image(root / sample.image)
    mask = read_mask(root / sample.mask, image.size)
    width = round(cell * image.width / image.height)
    resized = cv2.resize(np.asarray(image), (width, cell), interpolation=cv2.INTER_AREA)
    shapes = [tuple(size) for size in scores.size.tolist()]
    row = [resized, draw_contour(resized, mask)]
    for run in runs:
        values = scores.stitched(run, shapes)[index]
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

    `note`, such as a warning about the weights, stands below the grid.
    """
    letters = font(FONT_SIZE)
    left = MARGIN + FONT_SIZE + GAP + 4
    widths = [max(row[column].shape[1] for row in rows) for column in range(len(titles))]
    height = MARGIN + HEADER_HEIGHT + sum(row[0].shape[0] + GAP for row in rows) - GAP + MARGIN
    height += NOTE_HEIGHT if note else 0
    size = left + sum(widths) + GAP * (len(widths) - 1) + MARGIN, height
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    x = left
    for title, width in zip(titles, widths, strict=True):
        position = (x + width / 2, MARGIN + HEADER_HEIGHT / 2 - 4)
        draw.text(position, title, INK, letters, anchor="mm")
        x += width + GAP
    y = MARGIN + HEADER_HEIGHT
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
    draw.text((left, height - MARGIN), note, WARNING, font(NOTE_SIZE), anchor="lb")
    return sheet


if __name__ == "__main__":
    run_cli(lambda: draw_figure(parse_options(Options(), __doc__, Path(__file__))))

"""The grid figure of a paper from a finished run: no model is run again.

    python tools/figure.py    # of result/demo/, into result/demo/figure.png
    python tools/figure.py --result result/mvtec --categories bottle grid --shots 0 1 4

Rows are categories; columns are a test image, its ground truth, and the maps of the first seed of
each number of shots, on one colour scale per category and column as in the run's heatmaps. Of each
category the anomalous image whose score at the first of the shots is the median is shown: neither
the best nor the worst.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the project, not this folder, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.decode import read_image, read_mask
from datasets.splits import SPLITS_FOLDER, Sample, read_root, read_split
from utils.cli import parse_options, run_cli
from utils.errors import InputError
from utils.evaluation.stitching import StitchedMaps
from utils.files import PROJECT, atomic_path
from utils.results.folder import read_json
from utils.results.heatmaps import BACKGROUND, INK, colour_range, draw_contour, font, overlay
from utils.results.scores import Scores, load_scores

GAP, MARGIN = 8, 12  # between and around pictures, in pixels
LETTERS = 20  # height of the letters
HEAD = 34  # room for the titles of the columns


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    result: Path = PROJECT / "result" / "demo"
    """Folder of a finished run."""
    categories: tuple[str, ...] = ()
    """Rows; none given: every finished category."""
    shots: tuple[int, ...] = ()
    """Columns; none given: every number of shots of the run."""
    cell: int = 240
    """Height of a picture in pixels."""
    output: Path | None = None
    """The PNG to write; none given: figure.png in the result folder."""


def draw_figure(options: Options) -> Path:
    """Read a run, draw its figure, and return the file written."""
    folder = options.result.expanduser()
    settings = read_json(folder / "settings.json", "settings")["settings"]
    finished = sorted(path.stem for path in (folder / "done").glob("*.json"))
    names = list(options.categories) or finished
    if not names:
        raise InputError(f"{folder} has no finished category; run the benchmark first")
    for name in names:
        if name not in finished:
            has = ", ".join(finished) or "none"
            raise InputError(f'{folder} has no finished category "{name}"; it has {has}')
    root, samples = source_of(settings)
    rows = [draw_row(folder, root, samples, name, options) for name in names]
    shots = list(options.shots) or sorted(set(load_scores(score_file(folder, names[0])).shots))
    titles = ["image", "ground truth", *(f"{count}-shot" for count in shots)]
    sheet = lay_out(rows, names, titles)
    output = options.output.expanduser() if options.output else folder / "figure.png"
    with atomic_path(output) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    print(f"wrote {output}")
    return output


def score_file(folder: Path, category: str) -> Path:
    """Where a run keeps the scores of a category."""
    return folder / "scores" / f"{category}.npz"


def source_of(settings: dict) -> tuple[Path, dict[str, Sample]]:
    """The data root of a run, and its samples by image."""
    dataset = settings["dataset"]
    if dataset == "custom":
        raise InputError("the figure is of a benchmark's run; a run of own pictures has no split")
    split = settings["split"]
    split = SPLITS_FOLDER / f"{dataset}.csv" if split == "auto" else Path(split).expanduser()
    given = settings["data_root"]
    root = read_root(dataset) if given == "auto" else Path(given).expanduser()
    return root, {sample.image: sample for sample in read_split(split)}


def draw_row(
    folder: Path, root: Path, samples: dict[str, Sample], category: str, options: Options
) -> list[np.ndarray]:
    """The pictures of one category, (cell, width, 3) uint8 each."""
    scores = load_scores(score_file(folder, category))
    runs = [
        first_run(scores, count, folder) for count in options.shots or sorted(set(scores.shots))
    ]
    place = median_anomalous(scores, runs[0])
    sample = samples.get(str(scores.image[place]))
    if sample is None:
        raise InputError(f"{scores.image[place]} is not in the split any more; run again")
    image = read_image(root / sample.image)
    mask = read_mask(root / sample.mask, image.size)
    width = round(options.cell * image.width / image.height)
    picture = cv2.resize(np.asarray(image), (width, options.cell), interpolation=cv2.INTER_AREA)
    shapes = [tuple(size) for size in scores.size.tolist()]
    pictures = [picture, draw_contour(picture, mask)]
    for run in runs:
        values = StitchedMaps(scores.maps[run], scores.tiles, shapes)[place]
        pictures.append(overlay(picture, values, colour_range(scores.maps[run])))
    return pictures


def first_run(scores: Scores, shots: int, folder: Path) -> int:
    """The first seed's run of a number of shots."""
    found = np.flatnonzero(scores.shots == shots)
    if not len(found):
        has = ", ".join(map(str, sorted(set(scores.shots.tolist()))))
        raise InputError(f"--shots: {folder} has no {shots}-shot run; it has {has}")
    return int(found[0])


def median_anomalous(scores: Scores, run: int) -> int:
    """The place of the anomalous image whose score is the (upper) median of theirs."""
    places = np.flatnonzero(scores.label == 1)
    if not len(places):
        raise InputError("a category without anomalous images has nothing to show; leave it out")
    order = places[np.argsort(scores.image_scores[run, places], kind="stable")]
    return int(order[len(order) // 2])


def lay_out(rows: list[list[np.ndarray]], names: list[str], titles: list[str]) -> Image.Image:
    """All pictures in a grid: titles above the columns, categories upright before the rows."""
    letters = font(LETTERS)
    left = MARGIN + LETTERS + GAP + 4
    widths = [max(row[column].shape[1] for row in rows) for column in range(len(titles))]
    height = MARGIN + HEAD + sum(row[0].shape[0] + GAP for row in rows) - GAP + MARGIN
    size = left + sum(widths) + GAP * (len(widths) - 1) + MARGIN, height
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    x = left
    for title, width in zip(titles, widths, strict=True):
        draw.text((x + width / 2, MARGIN + HEAD / 2 - 4), title, INK, letters, anchor="mm")
        x += width + GAP
    y = MARGIN + HEAD
    for name, row in zip(names, rows, strict=True):
        high = row[0].shape[0]
        label = Image.new("RGB", (high, LETTERS + 8), BACKGROUND)
        words = name.replace("_", " ")
        ImageDraw.Draw(label).text((high / 2, LETTERS / 2 + 2), words, INK, letters, anchor="mm")
        sheet.paste(label.rotate(90, expand=True), (MARGIN - 4, y))
        x = left
        for picture, width in zip(row, widths, strict=True):
            sheet.paste(Image.fromarray(picture), (x + (width - picture.shape[1]) // 2, y))
            x += width + GAP
        y += high + GAP
    return sheet


if __name__ == "__main__":
    run_cli(lambda: draw_figure(parse_options(Options(), __doc__, Path(__file__))))

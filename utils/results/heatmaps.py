"""Panels to look at: a test image, its ground truth, and its anomaly maps, in one PNG.

Pure drawing: `panel` takes arrays and gives an image, and `colour_range` the colour scale that all
images of a category share, so that one score has one colour in all of its panels.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.errors import InputError

PICTURE_HEIGHT = 256  # of each picture, in pixels, unless another is asked for
WIDEST = 2  # a picture is at most so many times as wide as that; a wider one is drawn lower
COLUMN_WIDTH = 200  # at least, so that a title fits over a narrow picture
MARGIN = 16  # around the panel and between its columns, in pixels
HEADER_SIZE, TITLE_SIZE, LABEL_SIZE = 17, 14, 12  # of the letters, in pixels
HEADER_LINE, TITLE_LINE, LABEL_LINE = 30, 22, 22  # from one line of text to the next
BAR_HEIGHT = 9  # of a colour bar
BACKGROUND, INK, WARNING = (255, 255, 255), (30, 30, 30), (185, 28, 28)
FRAME = (200, 200, 200)  # a hair line around each picture, for pictures on a white ground
CONTOUR, CONTOUR_EDGE = (0, 255, 255), (0, 0, 0)  # bright on dark: one of them shows anywhere
CONTOUR_ZOOM = 3  # contours are drawn this much larger, then shrunk, to be thin and smooth
CONTOUR_WIDTH, EDGE_WIDTH = 4, 8  # in enlarged pixels
COLOUR_MAP = cv2.COLORMAP_INFERNO  # perceptually uniform; its brightness alone tells the score
OVERLAY = 0.65  # share of the colours in an overlay; the rest is the picture in grey
MIDDLE_GREY = 128  # the ground under the colour bar, so that it shows the overlay's colours

Scale = tuple[float, float]  # the scores at the low and the high end of the colours
Map = tuple[str, np.ndarray, float, Scale]  # title, (h, w) map, image score, scale


def draw_panel(
    image: np.ndarray,
    mask: np.ndarray | None,
    maps: Sequence[Map],
    name: str,
    note: str = "",
    height: int = PICTURE_HEIGHT,
) -> np.ndarray:
    """Draw one test image: (H, W, 3) uint8 RGB in, (h, w, 3) uint8 RGB out.

    `mask` is bool, empty for a good image, or None where the truth is unknown. Each map is
    `(title, map, score, (low, high))`. Mask and maps may have any size; they are stretched over
    the picture. `name` heads the panel, for instance "bottle/broken_large/000.png"; `note` is a
    warning below it, for instance "random weights"; `height` is that of each picture, in pixels.
    """
    check_sizes(image, mask)
    picture = fit(image, height)
    columns = [("image", picture, None)]
    if mask is not None and not mask.any():
        columns.append(("ground truth   good", picture, None))
    elif mask is not None:
        columns.append(("ground truth", draw_contour(picture, mask), None))
    for title, values, score, scale in maps:
        columns.append((f"{title}   score {score:.3f}", overlay(picture, values, scale), scale))
    return lay_out(columns, name, note)


def lay_out(
    columns: Sequence[tuple[str, np.ndarray, Scale | None]], name: str, note: str
) -> np.ndarray:
    """Put pictures of one size side by side: a title over each, a colour bar under each scale."""
    height, width = columns[0][1].shape[:2]
    column = max(width, COLUMN_WIDTH)
    room = len(columns) * (column + MARGIN) - MARGIN
    top = MARGIN + HEADER_LINE + (TITLE_LINE if note else 0) + TITLE_LINE
    size = room + 2 * MARGIN, top + height + LABEL_LINE + MARGIN
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    text_line(draw, (MARGIN, MARGIN), name, HEADER_SIZE, room)
    text_line(draw, (MARGIN, MARGIN + HEADER_LINE - 4), note, TITLE_SIZE, room, WARNING)
    for index, (title, picture, scale) in enumerate(columns):
        left = MARGIN + index * (column + MARGIN)
        text_line(draw, (left, top - TITLE_LINE), title, TITLE_SIZE, column)
        sheet.paste(Image.fromarray(picture), (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FRAME)
        if scale is not None:
            colour_bar(sheet, (left, top + height + 8), column, scale)
    return np.asarray(sheet)


def colour_range(maps: Iterable[np.ndarray]) -> Scale:
    """The lowest and the highest score in all `maps` of a category: one scale for its panels."""
    ends = [(float(values.min()), float(values.max())) for values in maps]
    if not ends:
        raise InputError("no maps to take a colour scale from; give at least one")
    if not np.isfinite(ends).all():
        raise InputError("a map has NaN or infinite scores; score its category again")
    return min(low for low, _ in ends), max(high for _, high in ends)


def fit(image: np.ndarray, wanted: int = PICTURE_HEIGHT) -> np.ndarray:
    """`image` in its own aspect: `wanted` pixels high, lower where it is wider than WIDEST."""
    height, width = image.shape[:2]
    ratio = min(wanted / height, WIDEST * wanted / width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)


def overlay(picture: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """The map's colours over the picture in grey: (h, w, 3) uint8, the size of `picture`."""
    height, width = picture.shape[:2]
    stretched = cv2.resize(
        np.asarray(values, np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    return blend(colours(stretched, scale), grey)


def blend(colour: np.ndarray, grey: np.ndarray | int) -> np.ndarray:
    """Colours over grey, as in every overlay: uint8 in, uint8 out."""
    return np.rint(OVERLAY * colour + (1 - OVERLAY) * grey).astype(np.uint8)


def colours(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Scores (h, w) to (h, w, 3) uint8 RGB; beyond the scale's ends, the colour of the end.

    A scale without extent, as of constant maps, gives its lowest colour.
    """
    low, high = scale
    if not np.isfinite(values).all():
        raise InputError("cannot draw a map with NaN or infinite scores; score its category again")
    unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return palette()[np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)]


@lru_cache
def palette() -> np.ndarray:
    """The colour map as a table: (256, 3) uint8 RGB, low to high."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    return cv2.applyColorMap(ramp, COLOUR_MAP)[0, :, ::-1]


def draw_contour(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of `picture` with the outline of `mask`, which may have another size.

    The outline is traced before it is scaled, so that a defect of a few pixels stays visible.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    height, width = picture.shape[:2]
    size = width * CONTOUR_ZOOM, height * CONTOUR_ZOOM
    ratio = np.array(size) / mask.shape[::-1]
    lines = [((points + 0.5) * ratio).astype(np.int32) for points in found]
    drawn = picture.astype(np.float32)
    for colour, thickness in ((CONTOUR_EDGE, EDGE_WIDTH), (CONTOUR, CONTOUR_WIDTH)):
        large = cv2.polylines(np.zeros(size[::-1], np.uint8), lines, True, 255, thickness)
        share = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None] / 255
        drawn += share * (np.array(colour) - drawn)
    return np.rint(drawn).astype(np.uint8)


def colour_bar(sheet: Image.Image, corner: tuple[int, int], width: int, scale: Scale) -> None:
    """Draw `low [colours] high` into a line of the sheet that starts at `corner`."""
    left, top = corner
    low, high = (f"{end:#.3g}" for end in scale)
    draw, letters = ImageDraw.Draw(sheet), font(LABEL_SIZE)
    start = left + round(letters.getlength(low)) + 6
    length = max(1, left + width - round(letters.getlength(high)) - 6 - start)
    ramp = np.linspace(0, 255, length).round().astype(np.uint8)
    strip = np.repeat(blend(palette()[ramp], MIDDLE_GREY)[None], BAR_HEIGHT, axis=0)
    middle = top + BAR_HEIGHT / 2
    draw.text((left, middle), low, INK, letters, anchor="lm")
    draw.text((left + width, middle), high, INK, letters, anchor="rm")
    sheet.paste(Image.fromarray(strip), (start, top))


def text_line(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    size: int,
    width: int,
    colour: tuple[int, int, int] = INK,
) -> None:
    """Write one line; a text wider than `width` loses its middle, so that a file name stays."""
    letters = font(size)
    kept = len(text)
    shown = text
    while letters.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    draw.text(corner, shown, colour, letters)


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that no font file is needed."""
    return ImageFont.load_default(size)


def check_sizes(image: np.ndarray, mask: np.ndarray | None) -> None:
    """Raise `InputError` unless `image` is (H, W, 3) uint8 and `mask`, if any, 2-D."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"an image to draw is {image.dtype} {image.shape}; give uint8 (height, width, 3)"
        )
    if mask is not None and mask.ndim != 2:
        raise InputError(f"a mask to draw is {mask.shape}; give (height, width)")

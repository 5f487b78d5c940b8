"""Draw panels: a test image, its ground truth and its anomaly maps side by side in one image.

`draw_panel` takes arrays and returns pixels. `colour_range` gives the colour scale that all panels
of a category share, so that equal scores have equal colours.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

IMAGE_HEIGHT = 256  # default height of each image in a panel, in pixels
MAX_ASPECT = 2  # an image is at most this many times as wide as IMAGE_HEIGHT; then it gets lower
MIN_COLUMN_WIDTH = 200  # pixels, so that a title fits above a narrow image
MARGIN = 16  # pixels around the panel and between its columns
HEADER_SIZE, TITLE_SIZE, LABEL_SIZE = 17, 14, 12  # font sizes in pixels
HEADER_LINE, TITLE_LINE, LABEL_LINE = 30, 22, 22  # line heights in pixels
BAR_HEIGHT = 9  # height of a colour bar in pixels
BACKGROUND, INK, WARNING = (255, 255, 255), (30, 30, 30), (185, 28, 28)
FRAME = (200, 200, 200)  # hairline around each image, visible where the image itself is white
CONTOUR, CONTOUR_EDGE = (0, 255, 255), (0, 0, 0)  # bright on dark: visible on any background
CONTOUR_ZOOM = 3  # contours are drawn enlarged by this factor, then shrunk, to be thin and smooth
CONTOUR_WIDTH, EDGE_WIDTH = 4, 8  # in enlarged pixels
COLOUR_MAP = cv2.COLORMAP_INFERNO  # perceptually uniform: brightness alone shows the score
OVERLAY = 0.65  # opacity of the colours in an overlay, over the image in grey
MIDDLE_GREY = 128  # grey under the colour bar, so that it shows the colours of the overlay

ColourRange = tuple[float, float]  # the scores at the low and the high end of the colours
Map = tuple[str, np.ndarray, float, ColourRange]  # title, (h, w) map, image score, scale


def draw_panel(
    image: np.ndarray,
    mask: np.ndarray | None,
    maps: Sequence[Map],
    name: str,
    note: str = "",
    height: int = IMAGE_HEIGHT,
) -> np.ndarray:
    """Draw one test image: (H, W, 3) uint8 RGB in, (h, w, 3) uint8 RGB out.

    `mask` is bool, all False for a good image, or None if the ground truth is unknown. Each map is
    `(title, map, score, (low, high))`. Mask and maps may have any size; they are stretched over
    the image. `name` is the heading, for instance "bottle/broken_large/000.png"; `note` a warning
    below it, for instance "random weights"; `height` that of each image in pixels.
    """
    fitted = fit(image, height)
    columns = [("image", fitted, None)]
    if mask is not None and not mask.any():
        columns.append(("ground truth   good", fitted, None))
    elif mask is not None:
        columns.append(("ground truth", draw_contour(fitted, mask), None))
    for title, values, score, scale in maps:
        columns.append((f"{title}   score {score:.3f}", overlay(fitted, values, scale), scale))
    return lay_out(columns, name, note)


def lay_out(
    columns: Sequence[tuple[str, np.ndarray, ColourRange | None]], name: str, note: str
) -> np.ndarray:
    """Put `(title, image, scale)` columns side by side; a column with a scale gets a colour bar.

    All images have one size.
    """
    height, width = columns[0][1].shape[:2]
    column = max(width, MIN_COLUMN_WIDTH)
    total_width = len(columns) * (column + MARGIN) - MARGIN
    top = MARGIN + HEADER_LINE + (TITLE_LINE if note else 0) + TITLE_LINE
    size = total_width + 2 * MARGIN, top + height + LABEL_LINE + MARGIN
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    text_line(draw, (MARGIN, MARGIN), name, HEADER_SIZE, total_width)
    text_line(draw, (MARGIN, MARGIN + HEADER_LINE - 4), note, TITLE_SIZE, total_width, WARNING)
    for index, (title, image, scale) in enumerate(columns):
        left = MARGIN + index * (column + MARGIN)
        text_line(draw, (left, top - TITLE_LINE), title, TITLE_SIZE, column)
        sheet.paste(Image.fromarray(image), (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FRAME)
        if scale is not None:
            colour_bar(sheet, (left, top + height + 8), column, scale)
    return np.asarray(sheet)


def colour_range(maps: Iterable[np.ndarray]) -> ColourRange:
    """Return the lowest and the highest score in all `maps`, the colour scale of a category."""
    lows, highs = zip(*((float(values.min()), float(values.max())) for values in maps), strict=True)
    return min(lows), max(highs)


def fit(image: np.ndarray, height: int = IMAGE_HEIGHT) -> np.ndarray:
    """Scale `image` to `height` pixels, keeping its aspect; lower if wider than MAX_ASPECT."""
    ratio = min(height / image.shape[0], MAX_ASPECT * height / image.shape[1])
    size = max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)


def overlay(image: np.ndarray, values: np.ndarray, scale: ColourRange) -> np.ndarray:
    """Blend the colours of a map over the image in grey: (h, w, 3) uint8, the size of `image`."""
    height, width = image.shape[:2]
    stretched = cv2.resize(
        np.asarray(values, np.float32), (width, height), interpolation=cv2.INTER_LINEAR
    )
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    return blend(colours(stretched, scale), grey)


def blend(colour: np.ndarray, grey: np.ndarray | int) -> np.ndarray:
    """Blend colours over grey with the opacity OVERLAY: uint8 in, uint8 out."""
    return np.rint(OVERLAY * colour + (1 - OVERLAY) * grey).astype(np.uint8)


def colours(values: np.ndarray, scale: ColourRange) -> np.ndarray:
    """Colour the scores of a map: (h, w) to (h, w, 3) uint8 RGB."""
    return palette()[score_levels(values, scale)]


def score_levels(values: np.ndarray, scale: ColourRange) -> np.ndarray:
    """Quantise scores to uint8: 0 and 255 are the ends of `scale`, and also what lies beyond them.

    If both ends are equal, because all maps are constant, every level is 0.
    """
    low, high = scale
    unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)


@lru_cache
def palette() -> np.ndarray:
    """Return the colour map as a table: (256, 3) uint8 RGB, from low to high."""
    ramp = np.arange(256, dtype=np.uint8)[None]
    return cv2.applyColorMap(ramp, COLOUR_MAP)[0, :, ::-1]


def draw_contour(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a copy of `image` with the outline of `mask`, which may have another size.

    The outline is traced before it is scaled, so that a defect of a few pixels stays visible.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    height, width = image.shape[:2]
    size = width * CONTOUR_ZOOM, height * CONTOUR_ZOOM
    ratio = np.array(size) / mask.shape[::-1]
    lines = [((points + 0.5) * ratio).astype(np.int32) for points in contours]
    drawn = image.astype(np.float32)
    for colour, thickness in ((CONTOUR_EDGE, EDGE_WIDTH), (CONTOUR, CONTOUR_WIDTH)):
        large = cv2.polylines(np.zeros(size[::-1], np.uint8), lines, True, 255, thickness)
        alpha = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None] / 255
        drawn += alpha * (np.array(colour) - drawn)
    return np.rint(drawn).astype(np.uint8)


def colour_bar(sheet: Image.Image, corner: tuple[int, int], width: int, scale: ColourRange) -> None:
    """Draw `low [colours] high` on one line of the sheet, from its top left `corner`."""
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
    """Write one line of text, shortened to `width` pixels."""
    letters = font(size)
    shown = shorten_middle(text, lambda shown: letters.getlength(shown) <= width)
    draw.text(corner, shown, colour, letters)


def shorten_middle(text: str, fits: Callable[[str], bool]) -> str:
    """Replace as little as possible of the middle of `text` by "…", until it fits.

    The start and the end of a path say most. Two letters stay in any case.

    >>> shorten_middle("bottle/good/000.png", lambda shown: len(shown) <= 10)
    'bott…0.png'
    """
    length, shown = len(text), text
    while not fits(shown) and length > 2:
        length -= 1
        shown = f"{text[: length // 2]}…{text[len(text) - (length - length // 2) :]}"
    return shown


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's built-in font, so that no font file is needed."""
    return ImageFont.load_default(size)

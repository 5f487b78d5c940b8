"""Draw panels: a test image, its ground truth and its anomaly maps side by side in one image.

`draw_panel` takes arrays and returns pixels. `colour_range` gives the colour scale that all panels
of a category share, so that equal scores have equal colours.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

IMAGE_HEIGHT = 256  # default height of each image in a panel, in pixels
MAX_ASPECT = 2  # maximal width of an image by IMAGE_HEIGHT; a wider one is scaled down to it
MIN_COLUMN_WIDTH = 200  # pixels, so that a title fits above a narrow image
MARGIN = 16  # pixels around the panel and between its columns
HEADER_SIZE, TITLE_SIZE, LABEL_SIZE = 17, 14, 12  # font sizes in pixels
HEADER_LINE, TITLE_LINE, LABEL_LINE = 30, 22, 22  # line heights in pixels
LINE_SPACING = 1.5  # height of a line of text by the size of its font
BAR_HEIGHT, BAR_TOP = 9, 7  # height of a colour bar and its distance from the image, in pixels
BACKGROUND, INK, WARNING = (255, 255, 255), (30, 30, 30), (185, 28, 28)
FRAME = 200  # grey of the hairline around each image, visible where the image itself is white
CONTOUR, CONTOUR_EDGE = (0, 255, 255), (0, 0, 0)  # bright on dark: visible on any background
CONTOUR_ZOOM = 3  # contours are drawn enlarged by this factor, then shrunk, to be thin and smooth
CONTOUR_WIDTH, EDGE_WIDTH = 4, 8  # in enlarged pixels
COLOUR_MAP = cv2.COLORMAP_INFERNO  # perceptually uniform: brightness alone shows the score
OVERLAY = 0.65  # opacity of the colours in an overlay, over the image in grey
WIDE_FONTS = (  # of Linux, Windows and macOS: Chinese ones first, then of European languages
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc"),
    *("DejaVuSans.ttf", "arial.ttf", "Arial Unicode.ttf"),
)
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
    the image. `name` is the heading, for instance "bottle/broken_large/000.png"; `note` is a
    warning below it, broken into lines; `height` is that of each image in pixels.
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
    warnings = wrap_words(note, TITLE_SIZE, total_width)
    top = MARGIN + HEADER_LINE + TITLE_LINE * len(warnings) + TITLE_LINE
    shape = top + height + LABEL_LINE + MARGIN, total_width + 2 * MARGIN, 3
    sheet = np.full(shape, BACKGROUND[0], np.uint8)  # one value fills faster than three
    paste(sheet, (MARGIN, MARGIN), text_line(name, HEADER_SIZE, total_width))
    for index, warning in enumerate(warnings):
        line = text_line(warning, TITLE_SIZE, total_width, WARNING)
        paste(sheet, (MARGIN, MARGIN + HEADER_LINE - 4 + TITLE_LINE * index), line)
    for index, (title, image, scale) in enumerate(columns):
        left = MARGIN + index * (column + MARGIN)
        paste(sheet, (left, top - TITLE_LINE), text_line(title, TITLE_SIZE, column))
        sheet[top - 1 : top + height + 1, left - 1 : left + width + 1] = FRAME
        paste(sheet, (left, top), image)
        if scale is not None:
            paste(sheet, (left, top + height + 1), colour_bar(column, scale))
    return sheet


def paste(sheet: np.ndarray, corner: tuple[int, int], image: np.ndarray) -> None:
    """Copy an image into the sheet, from its top left `corner` (x, y)."""
    left, top = corner
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image


def colour_range(maps: Iterable[np.ndarray]) -> ColourRange:
    """Return the lowest and the highest score in all `maps`: the colour scale of a category."""
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
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    entries = score_levels(stretched, scale).astype(np.uint16) * 256 + grey
    return cv2.cvtColor(blend_table().take(entries)[..., None].view(np.uint8), cv2.COLOR_RGBA2RGB)


@lru_cache
def blend_table() -> np.ndarray:
    """Return the blend of every level with every grey value: (256 levels x 256 greys,) uint32.

    An entry packs R, G, B and an unused byte: looking up one number is faster than three.
    """
    table = blend(palette()[:, None], np.arange(256)[:, None]).reshape(-1, 3)
    return np.pad(table, ((0, 0), (0, 1))).view(np.uint32)[:, 0]


def blend(colour: np.ndarray, grey: np.ndarray | int) -> np.ndarray:
    """Blend colours over grey with the opacity OVERLAY: uint8 in, uint8 out."""
    return np.rint(OVERLAY * colour + (1 - OVERLAY) * grey).astype(np.uint8)


def score_levels(values: np.ndarray, scale: ColourRange) -> np.ndarray:
    """Quantise scores to uint8: 0 and 255 are the ends of `scale`, or beyond them.

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
    size = np.array(image.shape[1::-1])
    ratio = size * CONTOUR_ZOOM / mask.shape[::-1]
    lines = [((points + 0.5) * ratio).astype(np.int32) for points in contours]
    # Only the window around the outline changes, which is a small part of most images.
    points = np.concatenate(lines)[:, 0]
    start = np.maximum(0, (points.min(axis=0) - EDGE_WIDTH) // CONTOUR_ZOOM)
    end = np.minimum(size, (points.max(axis=0) + EDGE_WIDTH) // CONTOUR_ZOOM + 1)
    lines = [line - (start * CONTOUR_ZOOM).astype(np.int32) for line in lines]
    drawn = image.copy()
    window = drawn[start[1] : end[1], start[0] : end[0]]
    width, height = (end - start).tolist()
    blended = window.astype(np.float32)
    for colour, thickness in ((CONTOUR_EDGE, EDGE_WIDTH), (CONTOUR, CONTOUR_WIDTH)):
        large = np.zeros((height * CONTOUR_ZOOM, width * CONTOUR_ZOOM), np.uint8)
        cv2.polylines(large, lines, True, 255, thickness)
        alpha = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None] / 255
        blended += alpha * (np.array(colour) - blended)
    window[:] = np.rint(blended)
    return drawn


@lru_cache
def colour_bar(width: int, scale: ColourRange) -> np.ndarray:
    """Draw `low [colours] high` on one line: (LABEL_LINE - 1, width + 1, 3) uint8."""
    low, high = (f"{end:#.3g}" for end in scale)
    letters = font(LABEL_SIZE)
    start = round(letters.getlength(low)) + 6
    length = max(1, width - round(letters.getlength(high)) - 6 - start)
    ramp = np.linspace(0, 255, length).round().astype(np.uint8)
    strip = np.repeat(blend(palette()[ramp], MIDDLE_GREY)[None], BAR_HEIGHT, axis=0)
    # One pixel wider: the smooth edge of the last letter may lie beyond its nominal width.
    line = Image.new("RGB", (width + 1, LABEL_LINE - 1), BACKGROUND)
    draw = ImageDraw.Draw(line)
    middle = BAR_TOP + BAR_HEIGHT / 2
    draw.text((0, middle), low, INK, letters, anchor="lm")
    draw.text((width, middle), high, INK, letters, anchor="rm")
    line.paste(Image.fromarray(strip), (start, BAR_TOP))
    return np.asarray(line)


@lru_cache
def text_line(text: str, size: int, width: int, colour: tuple[int, int, int] = INK) -> np.ndarray:
    """Write one line of text, shortened to `width` pixels: (h, w, 3) uint8."""
    letters = font(size, text.isascii())
    shown = shorten_middle(text, lambda shown: letters.getlength(shown) <= width)
    line = Image.new("RGB", (width + 1, round(LINE_SPACING * size)), BACKGROUND)
    ImageDraw.Draw(line).text((0, 0), shown, colour, letters)
    return np.asarray(line)


@lru_cache
def wrap_words(text: str, size: int, width: int) -> list[str]:
    """Break text between words into lines of at most `width` pixels; a longer word stays whole."""
    letters = font(size, text.isascii())
    lines: list[str] = []
    for word in text.split():
        if lines and letters.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def shorten_middle(text: str, fits: Callable[[str], bool]) -> str:
    """Replace as little as possible of the middle of `text` by "…", until it fits.

    The start and the end of a path say most. At least two letters are left.

    >>> shorten_middle("bottle/good/000.png", lambda shown: len(shown) <= 10)
    'bott…0.png'
    """
    length, shown = len(text), text
    while not fits(shown) and length > 2:
        length -= 1
        shown = f"{text[: length // 2]}…{text[len(text) - (length - length // 2) :]}"
    return shown


@lru_cache
def font(size: int, ascii_only: bool = True) -> ImageFont.FreeTypeFont:
    """Return Pillow's built-in font, so that no font file is needed.

    It has only ASCII; for other letters, return a font of the system if there is one.
    """
    for name in () if ascii_only else WIDE_FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)

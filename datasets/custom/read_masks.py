"""Read the masks of custom images: which pixels they mark.

A benchmark's masks are read by `datasets.decode.read_mask`, which refuses more. Here a mask is used
where its meaning is certain: JPEG files, other sizes of the same shape, transparency and several
masks of one image too.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datasets.check import covers_most
from datasets.decode import DEEP_GREY, open_image
from datasets.splits import UNKNOWN
from utils.errors import InputError

LEVELS = 16  # a mask of more grey values has blurred edges
SEPARATOR = "\n"  # between the paths of several masks of one image


class MaskError(InputError):
    """A mask that cannot be used; `label` is what it still says about an image without a label."""

    def __init__(self, sentence: str, label: int = UNKNOWN):  # unpickling passes the first alone
        super().__init__(sentence)
        self.label = label


def read_custom_masks(paths: str, image_size: tuple[int, int]) -> np.ndarray:
    """Unite the masks of an anomalous image of (width, height): (H, W) bool, True where anomalous.

    `paths` are joined by `SEPARATOR`. Raise `MaskError` if one of them has another shape, if
    nothing is marked, or if the mask could be inverted: it covers more than half of the image and
    of its border. Raise `InputError` if a file cannot be read.
    """
    files = [Path(path) for path in paths.split(SEPARATOR)]
    anomalous = np.logical_or.reduce([read_custom_mask(file, image_size) for file in files])
    if not anomalous.any():
        raise MaskError(f"the mask {files[0]} is all black", 0)
    if covers_most(anomalous):
        raise MaskError(
            f"the mask {files[0]} covers most of the image and of its border; if it is inverted, "
            "make the defects white",
            UNKNOWN,
        )
    return anomalous


def read_custom_mask(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """Read one mask at the size of its image: (H, W) bool, True where it is anomalous.

    Every pixel that is neither black nor transparent is anomalous. Where edges are blurred, as in a
    JPEG file, pixels above half of white are. Another size of the same shape is resized.
    """
    with open_image(path, "the mask ") as mask:
        lossy = mask.format in ("JPEG", "MPO")
        mask = ImageOps.exif_transpose(mask)
        anomalous = marked_pixels(mask, lossy)
    if anomalous.any() and not same_shape(mask.size, image_size):
        width, height = image_size
        raise MaskError(
            f"the mask {path} is {mask.width} x {mask.height} pixels and its image {width} x "
            f"{height}, which is another shape",
            1,
        )
    if mask.size != image_size:
        resized = Image.fromarray(anomalous).resize(image_size, Image.Resampling.NEAREST)
        anomalous = np.asarray(resized)
    return anomalous


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two sizes have the same aspect ratio, up to a rounded side.

    >>> same_shape((500, 333), (1000, 667)), same_shape((500, 300), (1000, 667))
    (True, False)
    """
    small, large = sorted((size, other))
    return any(abs(small[i] * large[j] / large[i] - small[j]) <= 1 for i, j in ((0, 1), (1, 0)))


def marked_pixels(mask: Image.Image, lossy: bool) -> np.ndarray:
    """Return which pixels of a mask are anomalous: (H, W) bool."""
    if mask.mode in ("F", *DEEP_GREY):
        return np.asarray(mask) > 0  # False for NaN
    if mask.has_transparency_data:
        red, green, blue, alpha = np.moveaxis(np.asarray(mask.convert("RGBA")), -1, 0)
        grey, opaque = np.maximum(np.maximum(red, green), blue), alpha > 0
        if not opaque.all():
            painted = (grey > 0) & opaque
            return painted if painted.any() else opaque
    else:
        grey = np.asarray(mask if mask.mode in ("1", "L") else mask.convert("RGB"))
        grey = grey.max(axis=-1) if grey.ndim == 3 else grey.astype(np.uint8)
    levels = np.flatnonzero(np.bincount(grey.ravel(), minlength=256))
    blurred = lossy or (len(levels) > LEVELS and levels[-1] > 127)
    return grey > (127 if blurred else 0)

"""Decode image and mask files; every fault of a file becomes an `InputError` of one sentence.

PNG, JPEG, BMP, TIFF, WebP and GIF files of one frame are read, recognised by content, not by
suffix.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.splits import Sample
from utils.errors import InputError, describe_error

# Pillow's other decoders stay disabled: some of them start external programs.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # older Pillow opens 16-bit PNG files as "I"
MAX_PIXELS = 100_000_000  # per image; a file of a few bytes can claim any number
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is stricter
# Raised by Pillow for files that are damaged, not images, or too large.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
THUMBNAIL_SIDE = 144  # the longer side, in pixels
THUMBNAIL_QUALITY = 75  # of the JPEG: 1,725 images of MVTec AD are about 12 MB


def read_image(path: Path, apply_exif: bool = False) -> Image.Image:
    """Decode an image file to 8-bit RGB; `apply_exif` applies its EXIF orientation.

    Raise `InputError` if the file is missing, damaged, or not an image of `FORMATS`.
    """
    with open_image(path) as image:
        return to_rgb(ImageOps.exif_transpose(image) if apply_exif else image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB.

    16-bit grey is scaled to 8 bits (Pillow would clip it at 255), transparency is composited on
    white. Raise `ValueError` for floating-point pixels and for integers beyond 16 bits.
    """
    if image.mode in DEEP_GREY:
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its grey values exceed 16 bits")
        image = Image.fromarray((grey.astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("it has floating-point pixels")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image.alpha_composite(rgba)
    return image.convert("RGB")


def read_mask(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """Decode the mask of an anomalous image: (H, W) bool, True where it is anomalous.

    Treat every non-black pixel as anomalous, also in palette and RGBA masks. `image_size` is the
    (width, height) of the image. Of a folder, unite all masks in it. Raise `InputError` if a mask
    is missing, damaged, a JPEG, empty, or of another size than its image.
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
        if not files:
            raise InputError(f"the mask folder {path} is empty; restore its files")
        return np.logical_or.reduce([read_mask(file, image_size) for file in files])
    with open_image(path, "the mask ") as mask:
        if mask.format in ("JPEG", "MPO"):
            raise ValueError("it is a JPEG, and lossy compression blurs the edges of a mask")
        if mask.size != image_size:
            raise InputError(
                f"the mask {path} is {mask.width} x {mask.height} pixels, its image "
                f"{image_size[0]} x {image_size[1]}; restore the original file"
            )
        if mask.mode == "F":
            raise ValueError("it has floating-point pixels")
        if mask.mode not in ("1", "L", *DEEP_GREY):
            mask = mask.convert("RGB")
        anomalous = np.asarray(mask) > 0
    if anomalous.ndim == 3:
        anomalous = anomalous.any(axis=-1)
    if not anomalous.any():
        raise InputError(
            f"the mask {path} of an anomalous image is empty; restore the original file"
        )
    return anomalous


def find_fault(root: Path, sample: Sample, apply_exif: bool = False) -> str:
    """Decode the image and the mask of a sample; return what is wrong with them, or ""."""
    try:
        image = read_image(root / sample.image, apply_exif)
        if sample.mask:
            read_mask(root / sample.mask, image.size)
    except InputError as error:
        return str(error)
    return ""


def make_thumbnail(image: Image.Image) -> bytes:
    """Return a small JPEG of an image; it keeps the aspect ratio."""
    ratio = THUMBNAIL_SIDE / max(image.size)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    data = BytesIO()
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    small.save(data, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return data.getvalue()


@contextmanager
def open_image(path: Path, kind: str = "") -> Iterator[Image.Image]:
    """Open an image file; raise `InputError` for whatever goes wrong while it is read.

    `kind` precedes the path in the sentence: "" or "the mask ".
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")  # reading a pipe would block
        with Image.open(os.fspath(path), formats=FORMATS) as image:  # old Pillow resolves a Path
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, too many")
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise ValueError("it has more than one frame")
            yield image
    except FileNotFoundError as error:
        raise InputError(
            f"{kind}{path} is in the split but does not exist; prepare the split again, or correct "
            "the data root"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{kind}{path} cannot be read as an image (it is none of {', '.join(FORMATS)}); "
            "replace the file"
        ) from error
    except UNREADABLE as error:
        raise InputError(
            f"{kind}{path} cannot be read as an image ({describe_error(error)}); replace the file"
        ) from error

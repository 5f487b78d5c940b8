"""Decode image and mask files; every fault of a file becomes an `InputError` of one sentence.

PNG, JPEG, BMP, TIFF, WebP and GIF files of one frame are read, recognised by content, not by
suffix.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from utils.errors import InputError, describe_error

THREADS = os.cpu_count() or 1  # Pillow, NumPy and OpenCV release the GIL
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # of images in a benchmark
# Pillow's other decoders stay disabled: some of them start external programs.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # older Pillow opens 16-bit PNG files as "I"
DEEP_COLOUR = ("RGB", "RGBA", "LA")  # modes of which Pillow keeps only the high byte of 16 bits
ORIENTATION = 0x0112  # EXIF's tag
MAX_PIXELS = 100_000_000  # per image; a file of a few bytes can claim any number
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is stricter
# Raised by Pillow for files that are damaged, not images, or too large.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
THUMBNAIL_SIDE = 144  # the longer side, in pixels
THUMBNAIL_QUALITY = 75  # of the JPEG: 1,725 images of MVTec AD are about 12 MB


@dataclass(frozen=True)
class White:
    """The values that become white in files of more than 8 bits, for all images of a run."""

    bits: int = 16  # of integers: 2**bits - 1 becomes white
    real: float = 0.0  # the floating-point value that becomes white; 0.0 refuses such files


SIXTEEN_BITS = White()


def read_image(path: Path, apply_exif: bool = False, white: White = SIXTEEN_BITS) -> Image.Image:
    """Decode an image file to 8-bit RGB; `apply_exif` applies its EXIF orientation.

    Raise `InputError` if the file is missing, damaged, or not an image of `FORMATS`.
    """
    with open_image(path) as image:
        rgb = to_rgb(image, white)
        if not apply_exif:
            return rgb
        rgb.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
        return ImageOps.exif_transpose(rgb)


def to_rgb(image: Image.Image, white: White = SIXTEEN_BITS) -> Image.Image:
    """Convert an image of any mode and depth to 8-bit RGB.

    Integers of more than 8 bits lose their low bits, floating-point pixels are scaled, and
    transparency is composited on a white background. Raise `ValueError` as `deep_pixels` does.
    """
    deep = deep_pixels(image)
    if deep is not None:
        image = Image.fromarray(to_8_bits(deep, white))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image.alpha_composite(rgba)
    return image.convert("RGB")


def deep_pixels(image: Image.Image) -> np.ndarray | None:
    """Return the pixels of an image of more than 8 bits: (H, W) or (H, W, C), or None for others.

    They are uint16, or float32 for floating-point images. Raise `ValueError` for integers beyond
    16 bits, for negative values and for those that are not finite.
    """
    if image.mode in DEEP_GREY:
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("its grey values exceed 16 bits")
        return grey.astype(np.uint16)
    if image.mode == "F":
        real = getattr(image, "real_pixels", np.asarray(image))
        if not (np.isfinite(real).all() and real.min() >= 0):
            raise ValueError("it has floating-point pixels below 0 or that are not finite")
        return real
    tiles = getattr(image, "tile", ())  # only of an image that has just been opened
    if image.mode in DEEP_COLOUR and any(";16" in str(tile[3]) for tile in tiles):
        stream, orientation = image.fp, image.getexif().get(ORIENTATION, 1)
        image.load()  # raises an error for a truncated file, which OpenCV would accept
        stream.seek(0)
        pixels = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        image.getexif()[ORIENTATION] = orientation  # Pillow has applied that of a TIFF file
        if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
            raise ValueError("its 16-bit colours are damaged")
        return np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=-1)  # from BGR
    return None


def to_8_bits(deep: np.ndarray, white: White) -> np.ndarray:
    """Scale the pixels of `deep_pixels` to uint8; a fourth channel (alpha) has all 16 bits.

    Raise `ValueError` for floating-point pixels if `white` refuses them.
    """
    if deep.dtype == np.uint16:
        shift = np.full(deep.shape[2:], white.bits - 8, np.uint16)
        if deep.ndim == 3:
            shift[3:] = 8
        return np.minimum(deep >> shift, 255).astype(np.uint8)
    if not white.real:
        raise ValueError("it has floating-point pixels")
    return np.rint(np.minimum(deep / white.real, 1) * 255).astype(np.uint8)


def describe_white(white: White) -> str:
    """Say which values are white in files of more than 8 bits.

    >>> describe_white(White(12, 1.0))
    '4095 is white in 16-bit files (12 bits), 1 in floating-point files'
    """
    real = f", {white.real:g} in floating-point files" if white.real else ""
    return f"{2**white.bits - 1} is white in 16-bit files ({white.bits} bits){real}"


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
            raise InputError(
                f"the mask {path} is a JPEG file, whose compression blurs edges; save the original "
                "mask as PNG"
            )
        if mask.size != image_size:
            raise InputError(
                f"the mask {path} is {mask.width} x {mask.height} pixels, its image "
                f"{image_size[0]} x {image_size[1]}; restore the original file"
            )
        anomalous = non_black(mask)
    if not anomalous.any():
        raise InputError(
            f"the mask {path} of an anomalous image is empty; restore the original file"
        )
    return anomalous


def non_black(mask: Image.Image) -> np.ndarray:
    """Return which pixels of a mask are not black, whatever their alpha: (H, W) bool.

    Raise `ValueError` for floating-point pixels.
    """
    if mask.mode == "F":
        raise ValueError("it has floating-point pixels")
    if mask.mode not in ("1", "L", *DEEP_GREY):
        mask = mask.convert("RGB")
    marked = np.asarray(mask) > 0
    return marked.any(axis=-1) if marked.ndim == 3 else marked


def make_thumbnail(image: Image.Image) -> bytes:
    """Return a small JPEG of an image; it keeps the aspect ratio."""
    ratio = THUMBNAIL_SIDE / max(image.size)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    data = BytesIO()
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    small.save(data, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return data.getvalue()


def open_stream(stream: BinaryIO) -> Image.Image:
    """Open an image as Pillow does, and floating-point TIFF files that Pillow does not know.

    These become an empty image with an attribute `real_pixels`: (H, W) or (H, W, 3) float32.
    """
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        stream.seek(0)
        tags = read_tiff_tags(stream)
        size = tags.get(256, 0), tags.get(257, 0)  # width and height
        real = tags and 3 in tags.get(339, ()) and not tags.next  # of one frame
        if not real or size[0] * size[1] > MAX_PIXELS:
            raise
        stream.seek(0)
        pixels = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype.kind != "f" or pixels.shape[2:] not in ((), (3,)):
            raise
    image = Image.new("F", size)
    image.format = "TIFF"
    image.getexif()[ORIENTATION] = tags.get(ORIENTATION, 1)
    rgb = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    image.real_pixels = rgb.astype(np.float32)
    return image


def read_tiff_tags(stream: BinaryIO) -> TiffImagePlugin.ImageFileDirectory_v2 | dict:
    """Read the tags of the first image of a TIFF file; {} for other and for damaged files."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        return tags
    except Exception:  # many types, of which Pillow documents none
        return {}


@contextmanager
def open_image(path: Path, kind: str = "") -> Iterator[Image.Image]:
    """Open an image file; raise `InputError` for whatever goes wrong while it is read.

    `kind` precedes the path in the sentence: "" or "the mask ".
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")  # reading a pipe would block
        # Given a path, Pillow 13 maps some TIFF files into memory, and then rotates them wrongly.
        with path.open("rb") as stream, open_stream(stream) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, too many")
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise InputError(
                    f"{kind}{path} has {image.n_frames} pages or frames; save one of them as a file"
                )
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

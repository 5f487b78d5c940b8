"""Files to pixels: images of any mode to RGB, masks to booleans; a fault is one sentence.

Read are PNG, JPEG, BMP, TIFF, WebP and GIF of one picture, told by content and not by suffix.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import InputError, describe_error

# No other reader of Pillow's is let near a file: some of them start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I": how older Pillows open 16-bit PNG
MAX_PIXELS = 100_000_000  # of one image; a file of a few bytes can claim any number
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # it is refused here
# What Pillow raises on files that are damaged, no images, or larger than any picture.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path, apply_exif: bool = False) -> Image.Image:
    """Decode an image to RGB; a missing or damaged file is an `InputError`.

    `apply_exif` turns it as its EXIF orientation says.
    """
    with decoding(path, "") as image:
        return to_rgb(ImageOps.exif_transpose(image) if apply_exif else image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode: 16-bit grey is scaled to 8 bits, since Pillow would cut it off at 255.

    What is transparent is laid on white. Numbers that no image sensor gives (floating point,
    beyond 16 bits) are a `ValueError`.
    """
    if image.mode in DEEP_GREY:
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("it has grey values beyond 16 bits")
        image = Image.fromarray((grey.astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("it has floating-point pixels")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        white.alpha_composite(clear)
        image = white
    return image.convert("RGB")


def read_anomalous(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """Decode the mask of an anomalous image: (H, W) bool, any value above 0 is anomalous.

    Any colour but black is, of a palette or with alpha too. `image_size` is (width, height) of its
    image. A mask that is missing, damaged, empty or of another size is an `InputError`.
    """
    with decoding(path, "the mask ") as mask:
        if mask.format in ("JPEG", "MPO"):
            raise ValueError("it is a JPEG, which smears the edges of a mask")
        if mask.size != image_size:
            raise InputError(
                f"the mask {path} is {mask.width} x {mask.height} pixels, its image "
                f"{image_size[0]} x {image_size[1]}; replace it by the original"
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
            f"the mask {path} of an anomalous image is empty; replace it by the original"
        )
    return anomalous


@contextmanager
def decoding(path: Path, what: str) -> Iterator[Image.Image]:
    """The opened picture of a file; what goes wrong while it is read is an `InputError`.

    `what` stands before its name in the sentence: "" or "the mask ".
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")  # a pipe would be waited for
        with Image.open(os.fspath(path), formats=FORMATS) as image:  # old Pillow resolves a Path
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, too many")
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise ValueError("it holds more than one picture")
            yield image
    except FileNotFoundError as error:
        raise InputError(
            f"{what}{path} is in the split but not there; prepare the split again, or mend the "
            "data root"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{what}{path} cannot be read as an image (it is none of {', '.join(FORMATS)}); "
            "replace the file"
        ) from error
    except UNREADABLE as error:
        raise InputError(
            f"{what}{path} cannot be read as an image ({describe_error(error)}); replace the file"
        ) from error


THUMBNAIL_SIDE = 144  # the longer side, in pixels
THUMBNAIL_QUALITY = 75  # of the JPEG file: the 1,725 images of MVTec AD take about 12 MB


def make_thumbnail(image: Image.Image) -> bytes:
    """Return a small JPEG file of an image, in its own aspect."""
    ratio = THUMBNAIL_SIDE / max(image.size)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    stream = io.BytesIO()
    small = image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    small.save(stream, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return stream.getvalue()

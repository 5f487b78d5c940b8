"""Files to pixels: images of any mode to RGB, masks to booleans; a fault is one sentence."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.errors import InputError

# What Pillow raises on files that are damaged, no images, or larger than any picture.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_image(path: Path, upright: bool = False) -> Image.Image:
    """Decode an image to RGB; a missing or damaged file is an `InputError`.

    `upright` turns it as its EXIF orientation says.
    """
    try:
        with Image.open(path) as image:
            rgb = to_rgb(image)
            return ImageOps.exif_transpose(rgb) if upright else rgb
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is in the split but not there; prepare the split again, or mend the data root"
        ) from error
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read as an image ({error}); replace the file"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode: 16-bit grey is scaled to 8 bits, since Pillow would cut it off at 255.

    What is transparent is laid on white; numbers without a range (mode F) are a ValueError.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a range")
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        grey = np.asarray(image, dtype=np.uint16) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        white.alpha_composite(clear)
        white.info = image.info  # where Pillow keeps the orientation
        return white.convert("RGB")
    return image.convert("RGB")


def read_anomalous(path: Path, image_size: tuple[int, int]) -> np.ndarray:
    """Decode the mask of an anomalous image: (H, W) bool, any value above 0 is anomalous.

    `image_size` is (width, height) of its image. A mask that is missing, damaged, empty or of
    another size is an `InputError`.
    """
    try:
        with Image.open(path) as mask:
            if mask.size != image_size:
                raise InputError(
                    f"the mask {path} is {mask.width} x {mask.height} pixels, its image "
                    f"{image_size[0]} x {image_size[1]}; replace it by the original"
                )
            anomalous = np.asarray(mask) > 0
    except FileNotFoundError as error:
        raise InputError(
            f"the mask {path} is in the split but not there; prepare the split again"
        ) from error
    except UNREADABLE as error:
        raise InputError(f"the mask {path} cannot be read ({error}); replace the file") from error
    if anomalous.ndim == 3:
        anomalous = anomalous.any(axis=-1)
    if not anomalous.any():
        raise InputError(
            f"the mask {path} of an anomalous image is empty; replace it by the original"
        )
    return anomalous

"""Inspect image and mask files before a run, and describe what is doubtful about them.

A damaged file is a fault, which prevents a split. A doubtful file becomes a note beside all
results: a mask that may be inverted, a tiny image, a test image that differs in size from the
reference images. Images of more than 8 bits get one scale for each category.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.decode import (
    ORIENTATION,
    White,
    deep_pixels,
    non_black,
    open_image,
    read_mask,
    to_rgb,
)
from datasets.splits import Sample
from utils.errors import InputError

BIT_DEPTHS = (8, 10, 12, 14, 16)  # of cameras; their images are stored in 16-bit files
MIN_SIDE = 32  # pixels; smaller images are enlarged so much that their scores mean little
MAX_SIZE_RATIO = 1.2  # between the shorter sides of images that are compared

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class Inspection:
    """The properties of an image that decide how it can be scored together with others."""

    size: Size  # with its EXIF orientation applied
    peak: int | float | None  # largest value without alpha, an int or a float; None for 8 bits
    sha256: str  # of the pixels and the orientation, whatever the file format


@dataclass(frozen=True)
class FileCheck:
    """The properties and the faults of the files of a sample."""

    fault: str = ""  # the reason why one of them cannot be used
    size: Size = (0, 0)
    peak: int | float | None = None  # as in `Inspection`
    inverted: bool = False  # True if the mask may be inverted


def check_file(root: Path, sample: Sample) -> FileCheck:
    """Decode the image and the mask of a sample."""
    try:
        size, peak = measure_image(root / sample.image)
        inverted = bool(sample.mask) and covers_most(read_mask(root / sample.mask, size))
    except InputError as error:
        return FileCheck(str(error))
    return FileCheck("", size, peak, inverted)


def notes_on_files(samples: Sequence[Sample], checks: Sequence[FileCheck]) -> list[str]:
    """Return the notes on the files of a dataset, one `FileCheck` per sample."""
    groups: dict[str, dict[str, tuple[Sample, FileCheck]]] = defaultdict(dict)
    for sample, check in zip(samples, checks, strict=True):
        groups[sample.class_name][sample.image] = sample, check
    notes = []
    for category, files in groups.items():
        masked = [sample.mask for sample, _ in files.values() if sample.mask]
        inverted = [sample.mask for sample, check in files.values() if check.inverted]
        if inverted:
            notes.append(
                f"MASKS THAT MAY BE INVERTED: {len(inverted)} of {len(masked)} masks of {category} "
                f"cover most of the image and of its border, such as {inverted[0]}; defects must "
                "be white: if these are not, invert them and prepare the dataset again"
            )
        sizes = {
            split: {name: check.size for name, (s, check) in files.items() if s.split == split}
            for split in ("train", "test")
        }
        for text in notes_on_sizes(sizes["test"], sizes["train"]):
            notes.append(f"{category}: {text}")
    return notes


def notes_on_sizes(tests: Mapping[str, Size], references: Mapping[str, Size]) -> list[str]:
    """Return notes on tiny images, and on tests whose size differs from that of all references."""
    notes = []
    tiny = {name: size for name, size in (tests | references).items() if min(size) < MIN_SIDE}
    if tiny:
        notes.append(
            f"SMALLER THAN {MIN_SIDE} PIXELS: {describe_sizes(tiny)}; the encoder sees them "
            "enlarged, and their scores mean little"
        )
    sides = {min(size) for size in references.values()}
    unlike = {
        name: size
        for name, size in tests.items()
        if not any(1 / MAX_SIZE_RATIO <= min(size) / side <= MAX_SIZE_RATIO for side in sides)
    }
    if references and unlike:
        width, height = next(iter(references.values()))
        notes.append(
            f"DIFFERENT SIZE FROM THE REFERENCE IMAGES: {describe_sizes(unlike)}, reference images "
            f"such as {width} x {height}; objects are compared at different scales"
        )
    return notes


def describe_sizes(sizes: Mapping[str, Size]) -> str:
    """Return a count of images with the first of them.

    >>> describe_sizes({"a.png": (30, 20)}), describe_sizes({"a.png": (30, 20), "b.png": (9, 9)})
    ('1 image, a.png (30 x 20)', '2 images, such as a.png (30 x 20)')
    """
    (name, (width, height)), *others = sizes.items()
    count = f"{1 + len(others)} images, such as" if others else "1 image,"
    return f"{count} {name} ({width} x {height})"


def find_depths(samples: Sequence[Sample], checks: Sequence[FileCheck]) -> dict[str, White]:
    """Return what becomes white in each category that has files of more than 8 bits."""
    peaks: dict[str, list[float | int]] = defaultdict(list)
    for sample, check in zip(samples, checks, strict=True):
        if check.peak is not None:
            peaks[sample.class_name].append(check.peak)
    return {category: find_white(values) for category, values in peaks.items()}


def find_white(peaks: Iterable[float | int | None]) -> White:
    """Return what becomes white in a set of images, given the `Inspection.peak` of each.

    Integers use the smallest of `BIT_DEPTHS` that holds them all. Floating-point pixels go from 0
    to 1, or to the largest of them all if that is above 1.

    >>> find_white([4040, 950, None, 0.7])
    White(bits=12, real=1.0)
    """
    peaks = [peak for peak in peaks if peak is not None]
    integers = [peak for peak in peaks if isinstance(peak, int)]
    reals = [peak for peak in peaks if isinstance(peak, float)]
    needed = max(integers, default=65535).bit_length()
    bits = next(depth for depth in BIT_DEPTHS if depth >= needed)
    return White(bits, max(1.0, *reals) if reals else 0.0)


def measure_image(path: Path) -> tuple[Size, int | float | None]:
    """Decode an image; return its (width, height) as stored and its peak, as in `Inspection`."""
    with open_image(path) as image:
        pixels, peak = read_pixels(image)
        return pixels.shape[1::-1], peak


def inspect_image(path: Path) -> Inspection:
    """Decode an image; raise `InputError` if it cannot be read."""
    with open_image(path) as image:
        pixels, peak = read_pixels(image)
        orientation = image.getexif().get(ORIENTATION, 1)
        height, width = pixels.shape[:2]
        size = (height, width) if orientation in (5, 6, 7, 8) else (width, height)
    digest = hashlib.sha256(np.ascontiguousarray(pixels))
    digest.update(repr((pixels.shape, orientation)).encode())
    return Inspection(size, peak, digest.hexdigest())


def read_pixels(image: Image.Image) -> tuple[np.ndarray, int | float | None]:
    """Return the pixels of an image, as RGB up to 8 bits, and its peak, as in `Inspection`."""
    deep = deep_pixels(image)
    if deep is None:
        return np.asarray(to_rgb(image)), None
    colours = deep[..., :3] if deep.ndim == 3 else deep
    peak = colours.max()
    return deep, int(peak) if deep.dtype == np.uint16 else float(peak)


def is_blank(path: Path) -> bool:
    """Return whether a mask is all black; an unreadable one, or a folder, is not."""
    try:
        with open_image(path, "the mask ") as mask:
            return not non_black(mask).any()
    except InputError:
        return False


def covers_most(anomalous: np.ndarray) -> bool:
    """Return whether a mask (H, W) bool may be inverted.

    It then covers more than half of the image and of its border.
    """
    border = np.concatenate([*anomalous[[0, -1]], *anomalous[:, [0, -1]].T])
    return bool(anomalous.mean() > 0.5 and border.mean() > 0.5)

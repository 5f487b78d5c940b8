"""One's own pictures as samples: a single file, a flat folder, or folders good/ and others.

Images of a folder that has a subfolder "good" are labelled by their subfolders; masks, if given,
say where the defects are. Files that cannot be read are left out and told, each with its reason.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.decode import decoding, read_anomalous, read_image
from datasets.prepare import SUFFIXES, THREADS
from datasets.splits import UNKNOWN, Sample
from utils.errors import InputError
from utils.files import real_path

PICTURES = (*SUFFIXES, ".gif")
GOOD = ("good", "ok", "normal")  # names of the subfolder with good pieces
LOOSE = "pictures"  # in the place of a defect's name where there is no subfolder


@dataclass(frozen=True)
class CustomImages:
    """What was found: samples whose files can be read, and what is wrong with the others."""

    root: Path
    tests: list[Sample]
    references: list[Sample]
    faults: list[str]


def find_custom_images(
    images: Path, name: str, references: Path | None, masks: Path | None
) -> CustomImages:
    """Samples of a folder (or file) of pictures; paths are relative to it, or else absolute.

    A folder that is missing or has no pictures, and masks that belong to no picture, are an
    `InputError`.
    """
    for option, folder in (("IMAGES", images), ("REFERENCES", references), ("MASKS", masks)):
        if folder is not None and not folder.exists():
            raise InputError(f"{option}: there is no {folder}; give a folder of pictures")
    tests = test_samples(images, name)
    if masks is not None:
        tests = with_masks(tests, masks)
    train = []
    if references is not None:
        train = [
            Sample(name, "train", 0, "good", str(real_path(path)), "")
            for path in pictures_in(references, "REFERENCES")
        ]
    root = images if images.is_dir() else images.parent
    with ThreadPoolExecutor(THREADS) as pool:
        faults = list(pool.map(lambda sample: fault_of(root, sample), [*tests, *train]))
    kept = [s for s, fault in zip([*tests, *train], faults, strict=True) if not fault]
    found = CustomImages(
        real_path(root),
        [sample for sample in kept if sample.split == "test"],
        [sample for sample in kept if sample.split == "train"],
        [fault for fault in faults if fault],
    )
    if not found.tests or (train and not found.references):
        raise InputError(f"none of the pictures can be read: {found.faults[0]}")
    return found


def test_samples(images: Path, name: str) -> list[Sample]:
    """The pictures to score, with labels where subfolders tell them."""
    if images.is_file():
        return [Sample(name, "test", UNKNOWN, LOOSE, images.name, "")]
    folders = sorted(path for path in images.iterdir() if path.is_dir())
    if not any(folder.name.lower() in GOOD for folder in folders):
        found = pictures_in(images, "IMAGES")
        return [Sample(name, "test", UNKNOWN, LOOSE, path.name, "") for path in found]
    samples = []
    for folder in folders:
        label = int(folder.name.lower() not in GOOD)
        for path in pictures_in(folder, "IMAGES"):
            image = path.relative_to(images).as_posix()
            samples.append(Sample(name, "test", label, folder.name, image, ""))
    return samples


def pictures_in(place: Path, option: str) -> list[Path]:
    """The pictures of a folder (or the one file), sorted; none is an `InputError`."""
    if place.is_file():
        return [place]
    found = sorted(
        path
        for path in place.iterdir()
        if not path.is_dir() and path.suffix.lower() in PICTURES and not path.name.startswith(".")
    )
    if found:
        return found
    inside = sorted(path.name for path in place.iterdir() if path.is_dir())
    hint = f"; it has the folders {', '.join(inside)}: give one of them" if inside else ""
    raise InputError(f"{option}: no pictures ({', '.join(PICTURES)}) are in {place}{hint}")


def with_masks(samples: Sequence[Sample], masks: Path) -> list[Sample]:
    """Each picture with its mask: <subfolder>/<stem>_mask.* or <stem>.* below `masks`.

    Without subfolders, a picture is good when it has no mask, or one with nothing in it.
    """
    marked = []
    for sample in samples:
        path = Path(sample.image)
        folder = masks / path.parent if (masks / path.parent).is_dir() else masks
        named = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in PICTURES}
        mask = named.get(f"{path.stem}_mask") or named.get(path.stem)
        label = sample.label
        if label == UNKNOWN:
            label = int(mask is not None and not is_blank(mask))
        where = str(real_path(mask)) if mask and label else ""
        marked.append(
            Sample(*(sample.class_name, "test", label, sample.defect, sample.image, where))
        )
    if not any(sample.mask for sample in marked):
        raise InputError(
            f"MASKS: no mask in {masks} belongs to a picture; name them like the pictures, "
            "<name>.png or <name>_mask.png"
        )
    return marked


def is_blank(mask: Path) -> bool:
    """Whether a mask marks nothing; an unreadable one does not count as blank."""
    try:
        with decoding(mask, "the mask ") as pixels:
            return not np.asarray(pixels).any()
    except InputError:
        return False


def fault_of(root: Path, sample: Sample) -> str:
    """What is wrong with the files of one sample, or ""."""
    try:
        image = read_image(root / sample.image, apply_exif=True)
        if sample.mask:
            read_anomalous(Path(sample.mask), image.size)
    except InputError as error:
        return str(error)
    return ""

"""Find a user's own images: a single file, a flat folder, or a folder with subfolders as labels.

If a folder has a subfolder "good" (or "ok", "normal"), images are labelled by their subfolders;
masks, if given, mark the defects. Files that cannot be decoded are left out and reported.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.decode import find_fault, open_image
from datasets.prepare import SUFFIXES, THREADS
from datasets.splits import UNKNOWN, Sample
from utils.errors import InputError
from utils.files import real_path

CUSTOM_SUFFIXES = (*SUFFIXES, ".gif")
GOOD_FOLDERS = ("good", "ok", "normal")
NO_FOLDER = "images"  # stands for the defect where no subfolder names it


@dataclass(frozen=True)
class CustomImages:
    """The samples whose files can be decoded, and the faults of the others."""

    root: Path  # of the paths in the samples that are not absolute
    tests: list[Sample]  # sorted by path
    references: list[Sample]  # sorted by path
    faults: list[str]


def find_custom_images(
    images: Path, name: str, references: Path | None, masks: Path | None
) -> CustomImages:
    """Find images and references, each a folder or a file, and masks, a folder.

    `name` is the category. Paths of test images are relative to `images`, those of references and
    masks absolute. Raise `InputError` if a folder is missing or has no images, if no mask matches
    an image, or if no image or no reference can be decoded.
    """
    for option, folder in (("IMAGES", images), ("REFERENCES", references), ("MASKS", masks)):
        if folder is not None and not folder.exists():
            raise InputError(f"{option}: {folder} does not exist; give a folder of images")
    if masks is not None and not masks.is_dir():
        raise InputError(f"MASKS: {masks} is not a folder; give the folder of the masks")
    samples = find_tests(images, name)
    if masks is not None:
        samples = add_masks(samples, masks)
    if references is not None:
        paths = list_custom_images(references, "REFERENCES")
        samples += [Sample(name, "train", 0, "good", str(real_path(path)), "") for path in paths]
    root = images if images.is_dir() else images.parent
    with ThreadPoolExecutor(THREADS) as pool:
        faults = list(pool.map(lambda sample: find_fault(root, sample, True), samples))
    usable = [sample for sample, fault in zip(samples, faults, strict=True) if not fault]
    custom = CustomImages(
        real_path(root),
        [sample for sample in usable if sample.split == "test"],
        [sample for sample in usable if sample.split == "train"],
        [fault for fault in faults if fault],
    )
    if not custom.tests or (references is not None and not custom.references):
        raise InputError(f"none of the images can be decoded: {custom.faults[0]}")
    return custom


def find_tests(images: Path, name: str) -> list[Sample]:
    """List the images to score, sorted, with labels if a subfolder is in `GOOD_FOLDERS`."""
    if images.is_file():
        return [Sample(name, "test", UNKNOWN, NO_FOLDER, images.name, "")]
    folders = sorted(path for path in images.iterdir() if path.is_dir())
    if not any(folder.name.lower() in GOOD_FOLDERS for folder in folders):
        paths = list_custom_images(images, "IMAGES")
        return [Sample(name, "test", UNKNOWN, NO_FOLDER, path.name, "") for path in paths]
    samples = []
    for folder in folders:
        label = int(folder.name.lower() not in GOOD_FOLDERS)
        for path in list_custom_images(folder, "IMAGES"):
            image = path.relative_to(images).as_posix()
            samples.append(Sample(name, "test", label, folder.name, image, ""))
    return samples


def list_custom_images(folder: Path, option: str) -> list[Path]:
    """List the images of a folder, sorted, or the one file; raise `InputError` if it has none."""
    if folder.is_file():
        return [folder]
    paths = sorted(folder.iterdir())
    images = [
        path
        for path in paths
        if not path.is_dir()
        and path.suffix.lower() in CUSTOM_SUFFIXES
        and not path.name.startswith(".")
    ]
    if images:
        return images
    subfolders = ", ".join(path.name for path in paths if path.is_dir())
    hint = f"; it has the folders {subfolders}: give one of them" if subfolders else ""
    raise InputError(f"{option}: no images ({', '.join(CUSTOM_SUFFIXES)}) in {folder}{hint}")


def add_masks(samples: Sequence[Sample], masks: Path) -> list[Sample]:
    """Pair each image with its mask: <subfolder>/<stem>_mask.* or <stem>.* below `masks`.

    An image without a label is anomalous if it has a mask that is not blank, else good. Raise
    `InputError` if no image is anomalous and has a mask.
    """
    paired = []
    for sample in samples:
        image = Path(sample.image)
        folder = masks / image.parent if (masks / image.parent).is_dir() else masks
        paths = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in CUSTOM_SUFFIXES}
        mask = paths.get(f"{image.stem}_mask") or paths.get(image.stem)
        label = sample.label
        if label == UNKNOWN:
            label = int(mask is not None and not is_blank(mask))
        path = str(real_path(mask)) if mask and label else ""
        paired.append(replace(sample, label=label, mask=path))
    if not any(sample.mask for sample in paired):
        raise InputError(
            f"MASKS: no mask in {masks} matches an image; name masks like the images, <name>.png "
            "or <name>_mask.png"
        )
    return paired


def is_blank(mask: Path) -> bool:
    """Return whether a mask has only zeros; an unreadable one is not blank."""
    try:
        with open_image(mask, "the mask ") as pixels:
            return not np.asarray(pixels).any()
    except InputError:
        return False

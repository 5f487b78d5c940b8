"""Recognise the layout of a dataset by its structure: categories, splits, labels and masks.

A category is a folder that holds test/ or test_public/, or else a folder of good images:

    <category>/train/good, test/<defect>, ground_truth/<defect>            MVTec AD, MPDD
    <category>/train/ok, test/ok, test/ko, ground_truth/ko                 BTAD
    <category>/ground_truth/<defect>/<stem>/*.png: a folder of masks       MVTec LOCO AD
    <category>/test_public/<defect>, test_public/ground_truth/<defect>     MVTec AD 2
    train/*.png, test/*.png: x_GT.png is the mask of x.png                 KolektorSDD2
    <category>/good, <category>/<defect>: no train images

Good images are in folders named like the only folder of train/, or by one of `GOOD_WORDS`. Without
folders that name labels, an image is anomalous if its mask is not blank.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from datasets.custom.tree import GOOD_WORDS, MASK_STEM, MASK_WORDS, plain_word
from datasets.decode import is_blank
from datasets.prepare import list_images
from datasets.splits import UNKNOWN, Sample
from utils.errors import InputError

TEST_FOLDERS = ("test", "test_public")
MAX_LISTED = 5  # folders of files that are not used
LAYOUT = "<category>/train/good, <category>/test/<defect> and <category>/ground_truth/<defect>"


@dataclass
class Scan:
    """The samples of a user's dataset before their files are checked."""

    root: Path
    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # each prevents a split
    notes: list[str] = field(default_factory=list)  # for the user to read
    used: set[Path] = field(default_factory=set)  # images, and masks that made a label or a sample


def scan_folders(given: Path, category: str) -> Scan:
    """Return the samples below a folder: a dataset, its only subfolder, or one category.

    `category` names the category if there is only one; "": the name of its folder. Raise
    `InputError` if no layout is recognised or if it is unclear which images are good.
    """
    scan, folders = find_categories(given)
    if category and len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"--category: the dataset has {len(folders)} categories ({names})")
    for folder in folders:
        name = Path(os.path.abspath(folder)).name  # noqa: PTH100 (of ".." too, but not of a link)
        scan_category(scan, folder, category or name)
    scan.notes += unused_files(scan)
    return scan


def find_categories(given: Path) -> tuple[Scan, list[Path]]:
    """Return an empty scan of a dataset, and the folders of its categories."""
    children = subfolders(given)
    for root in (given, *(children if len(children) == 1 else ())):
        folders = [root] if is_category(root) else list(filter(is_category, subfolders(root)))
        if folders:
            return Scan(root), folders
    raise InputError(
        f"--data-root: {given} has no layout that is known; expected {LAYOUT}, or one of the other "
        "layouts in docs/own-data.md, or a CSV as --csv FILE"
    )


def is_category(folder: Path) -> bool:
    """Return whether a folder holds the images of one category."""
    names = [path.name for path in subfolders(folder)]
    return any(name.lower() in TEST_FOLDERS or plain_word(name) in GOOD_WORDS for name in names)


def scan_category(scan: Scan, folder: Path, category: str) -> None:
    """Add the samples of one category to `scan`."""
    inside = {path.name.lower(): path for path in subfolders(folder)}
    tests = next((inside[name] for name in TEST_FOLDERS if name in inside), folder)
    parents = {"test": tests}
    if tests != folder and "train" in inside:
        parents["train"] = inside["train"]
    mask_folders = [
        path
        for parent in dict.fromkeys((folder, *parents.values()))
        for path in subfolders(parent)
        if plain_word(path.name) in MASK_WORDS
    ]
    good = find_good_words(parents)
    before = len(scan.samples)
    for split, parent in parents.items():
        labelled = image_folders(parent)
        for images in labelled:
            label = int(plain_word(images.name) not in good)
            kind = Sample(category, split, label, images.name if label else "good", "", "")
            add_images(scan, kind, images, find_masks(mask_folders, images.name))
        if not labelled:
            kind = Sample(category, split, UNKNOWN, "anomaly", "", "")
            add_images(scan, kind, parent, find_masks(mask_folders, split))
    if len(scan.samples) == before:
        scan.faults.append(f"{folder}: no images in {', '.join(parents)} or the folders below")


def find_good_words(parents: Mapping[str, Path]) -> set[str]:
    """Return the `plain_word` of each folder of good images; none where no folder names a label.

    `parents` maps "test" and perhaps "train" to their folders. Raise `InputError` if folders name
    labels, and none is good.
    """
    names = {split: [path.name for path in image_folders(p)] for split, p in parents.items()}
    words = {plain_word(name) for name in chain.from_iterable(names.values())}
    good = words & GOOD_WORDS
    if len(names.get("train", ())) == 1:
        good |= {plain_word(names["train"][0])}
    if words and not good:
        raise InputError(
            f"{parents['test'].parent} has images in the folders {', '.join(names['test'])}; name "
            "the one with the good images good, and the others after their defects"
        )
    return good


def add_images(scan: Scan, kind: Sample, folder: Path, masks: Mapping[str, Path]) -> None:
    """Add the images of one folder to `scan`.

    `kind` has everything but their paths; if its label is UNKNOWN, the masks tell the labels.
    `masks` are those in other folders, by the stem of their image.
    """
    files = list_images(folder)
    stems = {path.stem for path in files}
    beside = by_image_stem([path for path in files if image_stem(path) in stems])
    masks = {**masks, **beside}
    images = [path for path in files if path not in beside.values()]
    unmasked = sum(path.stem not in masks for path in images)
    if kind.label == UNKNOWN and unmasked:
        if unmasked == len(images) and kind.split == "test":
            scan.faults.append(
                f"{folder}: nothing tells which of its {len(images)} images are good; put them "
                "into folders, good and one per defect, or add masks"
            )
        scan.notes.append(f"{folder}: {unmasked} images without a mask count as good")
    for image in images:
        mask = masks.get(image.stem) if kind.label else None
        if mask in scan.used:
            scan.faults.append(f"{mask} is the mask of two images; give each defect its folder")
        scan.used |= {image} if mask is None else {image, mask}
        label = kind.label
        if label == UNKNOWN:
            label = int(mask is not None and not is_blank(mask))
        paths = [path.relative_to(scan.root).as_posix() for path in (image, mask) if path]
        image_path, mask_path = paths[0], paths[1] if label and mask else ""
        defect = kind.defect if label else "good"
        scan.samples.append(
            replace(kind, label=label, defect=defect, image=image_path, mask=mask_path)
        )


def find_masks(mask_folders: Sequence[Path], name: str) -> dict[str, Path]:
    """Return the masks of the images in a folder `name`, by the stem of their image.

    Masks lie in a subfolder `name` of a mask folder, or else directly in it. A folder <stem>/ holds
    several masks of one image.
    """
    masks = {}
    for parent in mask_folders:
        folder = parent / name if (parent / name).is_dir() else parent
        if folder != parent:
            masks |= {path.name: path for path in subfolders(folder)}
        files = list_images(folder)
        masks |= {path.stem: path for path in files}
        masks |= by_image_stem(files)
    return masks


def by_image_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files whose names say that they are masks, by the stem of their image.

    Raise `InputError` if two of them belong to one image.
    """
    masks: dict[str, Path] = {}
    for path in files:
        stem = image_stem(path)
        if stem == path.stem:
            continue
        if stem in masks:
            raise InputError(
                f"{masks[stem]} and {path.name} are masks of one image; to unite them, put them "
                f"into a folder {stem}/"
            )
        masks[stem] = path
    return masks


def image_stem(mask: Path) -> str:
    """Return the stem of the image that a mask belongs to.

    >>> image_stem(Path("000_mask.png")), image_stem(Path("x_GT.png")), image_stem(Path("1.png"))
    ('000', 'x', '1')
    """
    match = MASK_STEM.fullmatch(mask.stem)
    return match[1] if match else mask.stem


def image_folders(parent: Path) -> list[Path]:
    """Return the subfolders that hold images, without those of masks, sorted."""
    return [
        path
        for path in subfolders(parent)
        if plain_word(path.name) not in MASK_WORDS and list_images(path)
    ]


def subfolders(folder: Path) -> list[Path]:
    """Return the visible subfolders of a folder, sorted."""
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.is_dir() and not path.name.startswith(".")]


def unused_files(scan: Scan) -> list[str]:
    """Return a note on the files that are in no sample, if there are any."""
    counts: Counter[Path] = Counter()
    for path in sorted(scan.root.rglob("*")):
        if path.is_file() and scan.used.isdisjoint((path, *path.parents)):
            counts[path.parent.relative_to(scan.root)] += 1
    if not counts:
        return []
    shown = [f"{count} in {folder.as_posix()}/" for folder, count in counts.most_common(MAX_LISTED)]
    rest = len(counts) - MAX_LISTED
    more = [f"more in {rest} other folders"] if rest > 0 else []
    return [f"files that are not used: {', '.join(shown + more)}"]

"""Recognise the layout of a dataset by its structure: categories, splits, labels and masks.

A category is a folder that holds test/ or test_public/, or else a folder of good images:

    <category>/train/good, test/<defect>, ground_truth/<defect>            MVTec AD, MPDD
    <category>/train/ok, test/ok, test/ko, ground_truth/ko                 BTAD
    <category>/ground_truth/<defect>/<stem>/*.png: a folder of masks       MVTec LOCO AD
    <category>/test_public/<defect>, test_public/ground_truth/<defect>     MVTec AD 2
    train/*.png, test/*.png: x_GT.png is the mask of x.png                 KolektorSDD2
    <category>/good, <category>/<defect>: no train images

Good images are in folders named like the only folder of train/, or as the user says, or by one of
`GOOD_WORDS`. Without folders that name labels, an image is anomalous if its mask is not blank.
"""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePath

from datasets.check import is_blank
from datasets.decode import SUFFIXES
from datasets.layouts.masks import fault_of_mask_folder, find_mask_folders, find_masks
from datasets.layouts.names import (
    GOOD_WORDS,
    MASK_WORDS,
    find_mask_siblings,
    good_words_for,
    image_stems,
    list_names,
    plain_word,
)
from datasets.layouts.walk import Tree, list_images, subfolders, walk
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
    good_words: Collection[str] = frozenset(GOOD_WORDS)  # names of the folders of good images


def scan_folders(given: Path, category: str, good_folder: str = "") -> Scan:
    """Return the samples below a folder: a dataset, its only subfolder, or one category.

    `category` names the category if there is only one; "": the name of its folder. `good_folder` is
    the name of the folders of good images; "": one of `GOOD_WORDS`. Raise `InputError` if no layout
    is recognised, if it is unclear which images are good, or if there is no such `good_folder`.
    """
    good_words = good_words_for(good_folder)
    images = [path for path in image_folders(given) if path.parts] if good_folder else []
    if images and not any(plain_word(path.name) in good_words for path in images):
        raise InputError(
            describe_nested_good_images(given, good_words)
            or f'--good-folder: {given} has no folder "{good_folder}" with images; its folders '
            f"with images are: {list_names(images)}"
        )
    scan, folders = find_categories(given, good_words)
    if category and len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(
            f"--category {category} names a single category, but the dataset has {len(folders)} "
            f"({names}); remove it"
        )
    for folder in folders:
        name = Path(os.path.abspath(folder)).name  # noqa: PTH100 (of ".." too, but not of a link)
        scan_category(scan, folder, category or name)
    scan.notes += unused_files(scan)
    return scan


def find_categories(given: Path, good_words: Collection[str]) -> tuple[Scan, list[Path]]:
    """Return an empty scan of a dataset, and the folders of its categories.

    A note of the scan names folders with images that are no category.
    """
    children = subfolders(given)
    for root in (given, *(children if len(children) == 1 else ())):
        scan = Scan(root, good_words=good_words)
        if is_category(root, good_words):
            return scan, [root]
        folders = [path for path in subfolders(root) if is_category(path, good_words)]
        others = [
            path.name
            for path in subfolders(root)
            if path not in folders and plain_word(path.name) not in MASK_WORDS
            if image_folders(path)
        ]
        if folders and others:
            scan.notes.append(
                "folders that are not used, because they have no subfolder called test or good: "
                f"{list_names(others)}; if they are categories, name the folder of their good "
                "images with --good-folder"
            )
        if folders:
            return scan, folders
    raise InputError(f"--data-root: {given} {describe_unknown_layout(given, good_words)}")


def describe_unknown_layout(given: Path, good_words: Collection[str]) -> str:
    """Return what a folder without a known layout holds, and what to do."""
    images = image_folders(given)
    folders = (given / folder for path in images for folder in reversed(path.parents))
    if category := next((path for path in folders if is_category(path, good_words)), None):
        return (
            f"holds no category itself, but {category} is one; give its parent, {category.parent}"
        )
    if not images:
        return f"holds no images ({', '.join(SUFFIXES)}); give the folder that holds them"
    if images == [PurePath()]:
        return (
            f"holds {len(list_images(given))} images, and nothing says which are good; put them "
            "into folders, good and one per defect, or list them with labels in a CSV as --csv FILE"
        )
    return (
        f"has images in {list_names(images)}, and no folder of a category is called test or good; "
        "name the folder of good images with --good-folder, or use a layout of docs/own-data.md, "
        f"such as {LAYOUT}, or a CSV as --csv FILE"
    )


def describe_nested_good_images(root: Path, good_words: Collection[str]) -> str:
    """Return what to do about images in a subfolder of a folder of good images; "" if none are."""
    for path in image_folders(root):
        for folder in path.parents[:-1]:
            if plain_word(folder.name) in good_words:
                return (
                    f"the images in {root / path} lie too deep; move them up into {root / folder}"
                )
    return ""


def image_folders(root: Path) -> list[PurePath]:
    """Return the folders at or below `root` that have images in them, as sorted relative paths."""
    return sorted({path.parent for path in walk(root, Tree()) if path.suffix.lower() in SUFFIXES})


def is_category(folder: Path, good_words: Collection[str]) -> bool:
    """Return whether a folder holds the images of one category."""
    names = [path.name for path in subfolders(folder)]
    return any(name.lower() in TEST_FOLDERS or plain_word(name) in good_words for name in names)


def scan_category(scan: Scan, folder: Path, category: str) -> None:
    """Add the samples of one category to `scan`."""
    inside = {path.name.lower(): path for path in subfolders(folder)}
    tests = next((inside[name] for name in TEST_FOLDERS if name in inside), folder)
    parents = {"test": tests}
    if tests != folder and "train" in inside:
        parents["train"] = inside["train"]
    mask_folders = find_mask_folders(folder, parents)
    labelled = {
        split: [p for p in subfolders(parent) if p not in mask_folders and list_images(p)]
        for split, parent in parents.items()
    }
    for name in find_mask_siblings([path.name for path in labelled["test"]]):
        scan.faults.append(
            f"{tests / name} is named like the masks of the images beside it; move it to "
            f"{folder / 'ground_truth'}, and name it like their folder"
        )
    good = find_good_words(tests, labelled, scan.good_words)
    before = len(scan.samples)
    for split, parent in parents.items():
        for images in labelled[split]:
            label = int(plain_word(images.name) not in good)
            kind = Sample(category, split, label, images.name if label else "good", "", "")
            add_images(scan, kind, images, find_masks(mask_folders, images.name))
        if not labelled[split]:
            kind = Sample(category, split, UNKNOWN, "anomaly", "", "")
            add_images(scan, kind, parent, find_masks(mask_folders, split))
    samples = scan.samples[before:]
    if not samples:
        nested = describe_nested_good_images(folder, scan.good_words)
        hint = f"; {nested}" if nested else ""
        scan.faults.append(f"{folder}: no images in {', '.join(parents)} or directly below{hint}")
    stems = {Path(sample.image).stem for sample in samples}
    beside_images = [path for path in mask_folders if path.parent in parents.values()]
    scan.faults += filter(None, (fault_of_mask_folder(path, stems) for path in beside_images))


def find_good_words(
    tests: Path, labelled: Mapping[str, Sequence[Path]], good_words: Collection[str]
) -> set[str]:
    """Return the `plain_word` of each folder of good images; none where no folder names a label.

    `labelled` maps "test" and perhaps "train" to their folders with images. Raise `InputError` if
    folders name labels, and none is good.
    """
    names = {split: [path.name for path in folders] for split, folders in labelled.items()}
    words = {plain_word(name) for name in chain.from_iterable(names.values())}
    good = words & set(good_words)
    if len(names.get("train", ())) == 1:
        good |= {plain_word(names["train"][0])}
    if words and not good:
        raise InputError(
            describe_nested_good_images(tests, good_words)
            or f"{tests} has images in the folders {', '.join(names['test'])}; if one has the good "
            "images, give its name as --good-folder; the others are named after their defects"
        )
    return good


def add_images(scan: Scan, kind: Sample, folder: Path, masks: dict[str, list[Path]]) -> None:
    """Add the images of one folder to `scan`.

    `kind` has everything but their paths; if its label is UNKNOWN, the masks give the labels.
    `masks` are those in other folders, by the stems that their images may have; the masks in this
    folder are added.
    """
    files, images = list_images(folder), []
    stems = {path.stem for path in files}
    for path in files:
        if stems.isdisjoint(image_stems(path)[1:]):
            images.append(path)
        else:
            masks[image_stems(path)[1]].append(path)
    unmasked = sum(path.stem not in masks for path in images)
    if kind.label == UNKNOWN and unmasked:
        if unmasked == len(images) and kind.split == "test":
            scan.faults.append(
                f"{folder}: nothing says which of its {len(images)} images are good; put them "
                "into folders, good and one per defect, or add masks"
            )
        scan.notes.append(f"{folder}: images without a mask, which count as good: {unmasked}")
    for image in images:
        candidates = masks[image.stem] if kind.label else []
        mask = candidates[0] if candidates else None
        if len(candidates) > 1:
            scan.faults.append(
                f"{' and '.join(map(str, candidates))} are masks of one image, {image}; keep one, "
                f"or to unite them, put them into a folder {image.stem}/"
            )
        if mask in scan.used:
            scan.faults.append(f"{mask} is the mask of two images; give each defect its folder")
        scan.used |= {image} if mask is None else {image, mask}
        label = kind.label
        if label == UNKNOWN:
            label = int(mask is not None and not is_blank(mask))
        image_path = image.relative_to(scan.root).as_posix()
        mask_path = mask.relative_to(scan.root).as_posix() if label and mask else ""
        defect = kind.defect if label else "good"
        scan.samples.append(
            replace(kind, label=label, defect=defect, image=image_path, mask=mask_path)
        )


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

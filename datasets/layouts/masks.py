"""Find the folders of masks of a category, and the masks of the images in a folder."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

from datasets.layouts.names import MASK_WORDS, image_stems, list_names, plain_word
from datasets.layouts.walk import list_images, subfolders


def find_mask_folders(folder: Path, parents: Mapping[str, Path]) -> list[Path]:
    """Return the folders of masks of a category: beside its test folder, or else in `parents`.

    Beside other mask folders, a folder test/label has the images of a defect. Folders of masks in
    test_public/ always count.
    """
    children = [path for parent in parents.values() for path in subfolders(parent)]
    beside, inside = (
        [path for path in paths if plain_word(path.name) in MASK_WORDS]
        for paths in (subfolders(folder), children)
    )
    if parents["test"].name.lower() == "test_public":
        return list(dict.fromkeys(beside + inside))
    return beside or inside


def find_masks(mask_folders: Sequence[Path], name: str) -> dict[str, list[Path]]:
    """Return the masks of the images in a folder `name`, by the stems that an image may have.

    Masks lie in a subfolder `name` of a mask folder, or else directly in it. A folder <stem>/ holds
    several masks of one image.
    """
    masks: dict[str, list[Path]] = defaultdict(list)
    for parent in mask_folders:
        folder = parent / name if (parent / name).is_dir() else parent
        for path in subfolders(folder) if folder != parent else []:
            masks[path.name].append(path)
        for path in list_images(folder):
            for stem in image_stems(path):
                masks[stem].append(path)
    return masks


def fault_of_mask_folder(folder: Path, stems: Collection[str]) -> str:
    """Return a fault if none of the files in a folder of masks has one of the images' `stems`."""
    files = list_images(folder)
    if not files or not stems.isdisjoint(chain.from_iterable(map(image_stems, files))):
        return ""
    return (
        f"{folder}: no file in it is named like an image, so they are not masks: "
        f"{list_names([file.name for file in files])}; if they are images of a defect, rename the "
        "folder"
    )

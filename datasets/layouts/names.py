"""Read what the names of folders and files say: good images, defective ones, masks of images."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePath

from datasets.decode import SUFFIXES

# Names of folders, without case, spaces, dots, hyphens and underscores.
GOOD_WORDS = {
    *("good", "ok", "okay", "normal", "pass", "passed", "accept", "accepted", "flawless"),
    *("nondefective", "nodefect", "nodefects", "defectfree", "undamaged", "nonanomalous"),
    *("noanomaly", "faultless", "正常", "良品", "良好", "良", "合格", "合格品", "无缺陷", "無缺陷"),
    *("io", "inordnung"),
}
BAD_WORDS = {
    *("bad", "ng", "ko", "nok", "fail", "failed", "reject", "rejected", "defect", "defects"),
    *("defective", "damaged", "faulty", "anomaly", "anomalous", "abnormal"),
    *("nio", "nichtinordnung"),
    *("不良", "不合格", "异常"),
}
MASK_WORDS = {"mask", "masks", "groundtruth", "gt", "label", "labels", "掩码", "掩膜"}
# x_mask, x-GT, x.mask, x_mask_2: the mask of x, or one of several.
MASK_STEM = re.compile(r"(.+)[._ -](?:masks?|gt|ground_?truth)[._-]?\d*", re.IGNORECASE)
MAX_NAMES = 5  # of the files that a message counts


def good_words_for(good_folder: str) -> Collection[str]:
    """Return the `plain_word` of `good_folder`, or with "" all names of folders of good images."""
    return {plain_word(good_folder)} if good_folder else GOOD_WORDS


def plain_word(name: str) -> str:
    """Reduce the name of a folder to the form of `GOOD_WORDS`.

    >>> plain_word("Non-Defective"), plain_word("ground_truth"), plain_word("i. O.")
    ('nondefective', 'groundtruth', 'io')
    """
    return re.sub(r"[\s_.-]", "", unicodedata.normalize("NFKC", name)).casefold()


def is_mask(path: PurePath) -> bool:
    """Return whether a file is a mask by its name or by a folder that it is in."""
    in_folder = any(plain_word(name) in MASK_WORDS for name in path.parts[:-1])
    return in_folder or len(image_stems(path)) > 1


def image_stems(mask: PurePath) -> list[str]:
    """Return the stems that the image of a mask may have.

    >>> image_stems(PurePath("x.png")), image_stems(PurePath("x_mask_2.png"))
    (['x'], ['x_mask_2', 'x'])
    """
    match = MASK_STEM.fullmatch(mask.stem)
    return [mask.stem, match[1]] if match else [mask.stem]


def find_mask_siblings(names: Collection[str]) -> list[str]:
    """Return the names of folders that seem to hold the masks of the images in another of them.

    >>> find_mask_siblings(["good", "dent", "dent_mask", "face_mask"])
    ['dent_mask']
    """
    return [name for name in names if (match := MASK_STEM.fullmatch(name)) and match[1] in names]


def list_names(names: Sequence[object]) -> str:
    """Return a count with the first names.

    >>> list_names(list("abcdef"))
    '6 (a, b, c, d, e, ...)'
    """
    more = ", ..." if len(names) > MAX_NAMES else ""
    return f"{len(names)} ({', '.join(map(str, names[:MAX_NAMES]))}{more})"


def subfolders(folder: Path) -> list[Path]:
    """Return the visible subfolders of a folder, sorted."""
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.is_dir() and not path.name.startswith(".")]


def list_images(folder: Path) -> list[Path]:
    """List the images of a folder, sorted; [] if it does not exist. Other files are ignored."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


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

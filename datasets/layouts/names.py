"""Read what the names of folders and files say: good images, defective ones, masks of images."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import PurePath

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

"""Find the masks of custom images by their names and folders.

Reading them is in `datasets.custom.read_masks`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from datasets.layouts.names import MASK_WORDS, image_stems, plain_word
from datasets.layouts.walk import ListedImage


@dataclass
class Pairs:
    """The masks of each image, and those that belong to none."""

    masks: dict[PurePath, list[Path]] = field(default_factory=lambda: defaultdict(list))
    ambiguous: list[PurePath] = field(default_factory=list)  # match several images by name alone
    unmatched: list[PurePath] = field(default_factory=list)


def pair_masks(
    images: Sequence[ListedImage], root: Path, masks: Sequence[PurePath], masks_root: Path
) -> Pairs:
    """Find the image of each mask by name and folder; paths are relative to the two roots.

    The mask of <folder>/x.png is named x, x_mask, x_GT or x_mask_2, or lies in a folder x. It is in
    the same <folder> below a folder of masks, or anywhere if only one image has that name.
    """
    by_name: dict[str, list[ListedImage]] = defaultdict(list)
    for image in images:
        for name in {image.path.stem, image.path.name}:
            by_name[name].append(image)
    pairs = Pairs()
    for path in masks:
        folder = tuple(name for name in path.parts[:-1] if plain_word(name) not in MASK_WORDS)
        names = [(folder, stem) for stem in image_stems(path)]
        if folder:
            names.append((folder[:-1], folder[-1]))
        candidates = [(inside, image) for inside, name in names for image in by_name.get(name, [])]
        owners = dict.fromkeys(i for inside, i in candidates if is_inside(i, root, inside))
        by_name_alone = dict.fromkeys(image for _, image in candidates if image.label != 0)
        if not owners and len(by_name_alone) == 1:
            owners = by_name_alone
        for image in owners:
            pairs.masks[image.path].append(masks_root / path)
        if not owners:
            (pairs.ambiguous if by_name_alone else pairs.unmatched).append(path)
    return pairs


def is_inside(image: ListedImage, root: Path, folder: tuple[str, ...]) -> bool:
    """Return whether an image lies in `folder`, which starts at or below the root of the images."""
    parents = image.path.parts[:-1]
    full = (root.name, *parents)
    return folder == parents or (bool(folder) and full[-len(folder) :] == folder)

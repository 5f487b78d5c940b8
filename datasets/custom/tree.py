"""List a user's folder: the images with their labels, the masks, and all other files.

A folder with a subfolder named like "good" is labelled: its other subfolders are defects. Folders
named like "mask", and files named like x_mask.png, are masks, never images.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from datasets.decode import SUFFIXES
from datasets.layouts.names import find_mask_siblings, good_words_for, is_mask, plain_word
from datasets.layouts.walk import ListedImage, Tree, walk
from utils.cli import label
from utils.errors import InputError

CUSTOM_SUFFIXES = (*SUFFIXES, ".gif", ".jfif", ".jpe", ".dib")
OTHER_TYPES = "files of other types"  # a reason to pass over files


@dataclass(frozen=True)
class CustomRequest:
    """The folders and options with which a user asks for custom images."""

    images: Path  # a folder or a file, like the next two
    class_name: str
    references: Path | None = None
    masks: Path | None = None  # None: masks inside the folder of the images
    recursive: bool = False
    good_folder: str = ""  # the folder of good images; "": one of `GOOD_WORDS`
    resize: str = "tile"  # a `Resize`; this and the next decide which images have too many tiles
    tile: int = 0
    results: Path | None = None  # the result folder, which may lie inside the folder of the images


def list_tree(
    folder: Path, option: str, recursive: bool, good_folder: str, skip: Collection[Path] = ()
) -> Tree:
    """List a folder; `skip` are real paths of folders in it that hold something else.

    Without `recursive`, only the folder's own images are listed, or those of its subfolders if one
    of them is good: `good_folder`, or one in `GOOD_WORDS`. With it, a good folder at any depth
    labels its siblings. Raise `InputError` if there are no images.
    """
    tree, files = Tree(), []
    for path in walk(folder, tree, skip):
        if path.suffix.lower() not in CUSTOM_SUFFIXES:
            tree.pass_over(OTHER_TYPES, path)
        elif is_mask(path):
            tree.masks.append(path)
        else:
            files.append(path)
    good = good_words_for(good_folder)
    folders = {parent for path in files for parent in path.parents[:-1]}
    labelled = {parent.parent for parent in folders if plain_word(parent.name) in good}
    if not recursive:
        labelled &= {PurePath()}
    top = sorted({parent.parts[0] for parent in folders})
    if good_folder and not labelled and option == "images":
        raise InputError(f"{label('good_folder')}: {explain_unlabelled(folder, top, good_folder)}")
    labels = [folder for folder in folders if folder.parent in labelled]
    for name in find_mask_siblings([str(folder) for folder in labels]):
        raise InputError(
            f"{label(option)}: {folder / name} is named like the masks of the images beside it; "
            f"move it to {folder / PurePath(name).parent / 'mask'}, or give masks with --masks"
        )
    tree.labelled = labelled
    depth = 2 if labelled else 1
    for path in files:
        image = label_by_folder(path, labelled, good) if labelled else ListedImage(path)
        if not recursive and len(path.parts) > depth:
            tree.pass_over("images in subfolders (--recursive includes them)", path)
        elif image is None:
            tree.pass_over("images beside the labelled folders", path)
        else:
            tree.images.append(image)
    tree.images.sort(key=lambda image: image.path)
    if not tree.images:
        raise InputError(f"{label(option)}: {explain_empty(folder, top, len(tree.masks))}")
    return tree


def label_by_folder(
    path: PurePath, labelled: Collection[PurePath], good: Collection[str]
) -> ListedImage | None:
    """Return an image with its label, or None if no folder of it is in a labelled one.

    `labelled` are the folders with a good subfolder; the innermost decides.
    """
    for parent in path.parents[:-1]:
        if parent.parent in labelled:
            is_good = plain_word(parent.name) in good
            return ListedImage(path, int(not is_good), "good" if is_good else parent.name)
    return None


def explain_unlabelled(folder: Path, top: Sequence[str], good_folder: str) -> str:
    """Return the message about a folder without good images; `top` as in `explain_empty`."""
    if top:
        return (
            f'{folder} has no folder "{good_folder}" with images; its folders with images are: '
            f"{', '.join(top)}"
        )
    return (
        f"{folder} has no subfolders with images; to label the images, put the good ones into "
        f"{folder / good_folder} and the others into subfolders named after their defects"
    )


def explain_empty(folder: Path, top: Sequence[str], masks: int) -> str:
    """Return the message about a folder without images of its own.

    `top` are its subfolders with images, `masks` is the number of masks in it.
    """
    if not top:
        hint = f"; {masks} files are masks by their names" if masks else ""
        suffixes = ", ".join(CUSTOM_SUFFIXES)
        return f"no images ({suffixes}) in {folder}{hint}; give the folder that holds them"
    return (
        f"{folder} has images only in its subfolders {', '.join(top)}; name the one with the good "
        "images with --good-folder, add --recursive to include all of them, or give one of them "
        "instead"
    )

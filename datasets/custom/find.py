"""Find a user's own images: their labels, masks and reference images, and everything unusable.

Every file is decoded once here, so that all faults are known before the run. Images that cannot be
used are left out and reported; images whose masks cannot be used are still scored.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from datasets.check import Inspection, find_white, inspect_image, notes_on_sizes
from datasets.custom.labels import label_samples
from datasets.custom.tree import CustomRequest, list_tree
from datasets.decode import SIXTEEN_BITS, THREADS, White
from datasets.layouts.names import BAD_WORDS, good_words_for, list_names, plain_word
from datasets.layouts.walk import ListedImage, Tree
from datasets.splits import Sample
from datasets.tiles import MAX_TILES_OF_TILE, TileCountError, check_tile_count
from utils.cli import label, spell
from utils.errors import InputError
from utils.files import is_printable_name, real_path

IMAGES = "an image or a folder of images"
MAX_NAME_BYTES = 251  # of the name of an image; a heatmap's may have ".png" in addition


@dataclass(frozen=True)
class CustomImages:
    """The samples whose files can be decoded, and the faults of the others."""

    root: Path  # of the paths in the samples that are not absolute
    tests: list[Sample]  # sorted by path; masks are paths joined by `SEPARATOR`
    references: list[Sample]  # sorted by path, which is absolute
    faults: list[str] = field(default_factory=list)  # of images that are left out
    messages: list[str] = field(default_factory=list)  # what a user must know about the others
    notes: list[str] = field(default_factory=list)  # warnings to show beside every result
    white: White = SIXTEEN_BITS
    sha256: Mapping[str, str] = field(default_factory=dict)  # of the pixels, by image path


def find_custom_images(request: CustomRequest) -> CustomImages:
    """Find and decode images and references, and pair images with masks.

    Raise `InputError` if a folder is missing or has no images, if no image or no reference can be
    used, if no mask of `request.masks` matches an image, or if a reference is also a test image.
    """
    check_paths(request)
    root = real_path(request.images if request.images.is_dir() else request.images.parent)
    tests, references = list_tests(request), list_references(request)
    messages = tests.messages("images") + references.messages("references")
    results = check_images(root, (*tests.images, *references.images), request)
    keep_usable(tests, "images", results, request)
    keep_usable(references, "references", results, request)
    checked = {n: result for n, result in results.items() if isinstance(result, Inspection)}
    faults = [str(result) for result in results.values() if isinstance(result, InputError)]
    names = distinct_references(tests, references, checked, messages)
    peaks = [inspection.peak for inspection in checked.values()]
    sizes = {path: inspection.size for path, inspection in checked.items()}
    shorter_side = max(map(min, sizes.values()))
    if request.tile >= shorter_side:
        messages.append(
            f"warning: --tile {request.tile} has no effect on the size of the tiles: the shorter "
            f"side of every image is at most {shorter_side} pixels"
        )
    samples = label_samples(request, tests, sizes, messages)
    used = [{name: sizes[name] for name in group} for group in ([s.image for s in samples], names)]
    return CustomImages(
        root,
        samples,
        [Sample(request.class_name, "train", 0, "good", name, "") for name in names],
        faults,
        [printable(line) for line in (*messages, *describe_depth(peaks))],
        [printable(line) for line in notes_on_sizes(*used)],
        find_white(peaks),
        {path: inspection.sha256 for path, inspection in checked.items()},
    )


def check_paths(request: CustomRequest) -> None:
    """Raise `InputError` for a path of the request that does not exist."""
    for option in ("images", "references", "masks"):
        path = getattr(request, option)
        if path is not None and not path.exists():
            noun = "a mask or a folder of masks" if option == "masks" else IMAGES
            raise InputError(f"{label(option)}: {path} does not exist; give {noun}")


def printable(line: str) -> str:
    """Escape a message that has a name which is not UTF-8 or has control characters."""
    return line if is_printable_name(line) else ascii(line)[1:-1]


def list_tests(request: CustomRequest) -> Tree:
    """List the images to score; folders given for something else are not among them."""
    if request.images.is_file():
        return Tree([ListedImage(PurePath(request.images.name))])
    skip = [real_path(path) for path in (request.masks, request.results) if path]
    good = good_words_for(request.good_folder)
    if request.references and plain_word(request.references.name) not in good:
        skip.append(real_path(request.references))
        if plain_word(request.references.name) in BAD_WORDS:
            raise InputError(
                f"{label('references')}: {request.references} is named like a folder of defective "
                "images; give a folder of good ones"
            )
    return list_tree(request.images, "images", request.recursive, request.good_folder, skip)


def list_references(request: CustomRequest) -> Tree:
    """List the reference images, with absolute paths; in a labelled folder, the good ones."""
    folder = request.references
    if folder is None:
        return Tree()
    if folder.is_file():
        return Tree([ListedImage(PurePath(real_path(folder)))])
    tree = list_tree(folder, "references", request.recursive, request.good_folder)
    for image in tree.images:
        if image.label == 1:
            tree.pass_over("images that are not good", image.path)
    tree.images = [
        ListedImage(PurePath(real_path(folder / image.path)))
        for image in tree.images
        if image.label != 1
    ]
    if not tree.images:
        raise InputError(
            f"{label('references')}: the folders of good images in {folder} hold no images "
            "themselves; add --recursive, or give the folder that holds them"
        )
    return tree


def check_images(
    root: Path, images: Sequence[ListedImage], request: CustomRequest
) -> dict[str, Inspection | InputError]:
    """Decode images; return the properties of each, or why it cannot be scored, by path."""
    names = [image.path.as_posix() for image in images]
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda name: check_image(root, name, request), names)
        return dict(zip(names, results, strict=True))


def check_image(root: Path, name: str, request: CustomRequest) -> Inspection | InputError:
    """Decode the image `name` below `root`; return its properties, or why it cannot be scored."""
    path = root / name
    if not is_printable_name(name):
        return InputError(f"{name!a} is not UTF-8 or has control characters; rename it")
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        return InputError(f"{path} has too long a name for a file with its heatmap; shorten it")
    if not path.exists():
        return InputError(f"{path} is a link to a file that does not exist; restore the file")
    try:
        inspection = inspect_image(path)
        check_tile_count(path, inspection.size, request.resize, request.tile)
    except TileCountError as error:
        return error if request.tile else InputError(f"{error}, or set --resize squash")
    except InputError as error:
        return error
    return inspection


def keep_usable(
    tree: Tree, option: str, results: Mapping[str, Inspection | InputError], request: CustomRequest
) -> None:
    """Remove the images that cannot be scored; raise `InputError` if none of them can."""
    by_image = {image: results[image.path.as_posix()] for image in tree.images}
    tree.images = [image for image, r in by_image.items() if isinstance(r, Inspection)]
    if by_image and not tree.images:
        raise InputError(explain_unusable(option, [*by_image.values()], request))


def explain_unusable(option: str, faults: Sequence[InputError], request: CustomRequest) -> str:
    """Return the message about images or references of which none can be scored."""
    noun = "reference images" if option == "references" else "images"
    smallest = [getattr(fault, "smallest_tile", None) for fault in faults]
    if all(smallest):
        return (
            f"{spell('tile', request.tile)}: all {noun} would be cut into more than "
            f"{MAX_TILES_OF_TILE} tiles; give at least {max(smallest)}, the smallest tile that "
            "fits the largest image"
        )
    if getattr(request, option).is_file():
        return f"{label(option)}: {faults[0]}, or give another"
    return f"{label(option)}: none of the {noun} can be used; the first: {faults[0]}"


def distinct_references(
    tests: Tree, references: Tree, checked: Mapping[str, Inspection], messages: list[str]
) -> list[str]:
    """Return the paths of the reference images without copies of one another.

    Copies are found by their pixels. Raise `InputError` if a reference is also a test image: it
    would be compared with itself.
    """
    first = {checked[image.path.as_posix()].sha256: image.path for image in reversed(tests.images)}
    names = [image.path.as_posix() for image in references.images]
    shared = [str(first[checked[name].sha256]) for name in names if checked[name].sha256 in first]
    if shared:
        raise InputError(
            f"{label('references')}: reference images that are also test images: "
            f"{list_names(shared)}; they would be compared with themselves and score too low; give "
            f"other good images, or remove these from {label('images')}"
        )
    distinct = {checked[name].sha256: name for name in reversed(names)}
    copies = [name for name in names if distinct[checked[name].sha256] != name]
    if copies:
        messages.append(
            f"{label('references')}: left out copies of other references: {list_names(copies)}"
        )
    return sorted(distinct.values())


def describe_depth(peaks: Sequence[float | int | None]) -> list[str]:
    """Return how files of more than 8 bits are read; one line for integers, one for reals."""
    white = find_white(peaks)
    integers = [peak for peak in peaks if isinstance(peak, int)]
    lines = []
    if integers:
        lines.append(
            f"16-bit files: the largest value is {max(integers)}, so they are read as images of "
            f"{white.bits} bits ({2**white.bits - 1} is white)"
        )
    if white.real:
        lines.append(f"floating-point files: 0 is black, {white.real:g} is white")
    return lines

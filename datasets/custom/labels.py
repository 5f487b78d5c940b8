"""Label custom images by their folders or their masks, and say what masks are not used."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath

from datasets.custom.masks import Pairs, pair_masks
from datasets.custom.read_masks import SEPARATOR, MaskError, read_custom_masks
from datasets.custom.tree import CUSTOM_SUFFIXES, OTHER_TYPES, CustomRequest
from datasets.decode import THREADS
from datasets.layouts.names import MASK_WORDS, list_names, plain_word
from datasets.layouts.walk import NO_FOLDER, Tree, walk
from datasets.splits import UNKNOWN, Sample
from utils import cli
from utils.errors import InputError
from utils.files import real_path

MAX_FAULTS = 20  # listed; further ones are only counted


@dataclass(frozen=True)
class MaskReading:
    """The label that an image's masks give it."""

    label: int  # 1 if they mark something, 0 if not, UNKNOWN if they cannot be understood
    fault: str = ""  # the reason why they cannot be used


def label_samples(
    request: CustomRequest,
    tests: Tree,
    sizes: Mapping[str, tuple[int, int]],
    messages: list[str],
) -> list[Sample]:
    """Return the samples with labels and usable masks.

    Without labelled folders, an image is anomalous if it has a mask that is not black. `sizes` are
    (width, height) by image path. What a user must know is added to `messages`. Raise `InputError`
    if `request.masks` has no mask of any image, and as `check_mask_folders` does.
    """
    check_mask_folders(request, tests)
    masks = find_masks(request, tests, messages)
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(lambda path: read_masks(masks[path], sizes[path]), masks)
        readings = dict(zip(masks, results, strict=True))
    samples, faults, marked_good = [], [], []
    defects = {0: "good", 1: "anomaly", UNKNOWN: NO_FOLDER}  # of images that masks label
    for image in tests.images:
        path = image.path.as_posix()
        reading = readings.get(path, MaskReading(0))
        by_mask = image.label == UNKNOWN and bool(masks)
        label = reading.label if by_mask else image.label
        if reading.fault and label != 0:
            faults.append(reading.fault)
        if image.label == 0 and reading.label == 1:
            marked_good.append(path)
        mask = masks.get(path, "") if label == 1 and not reading.fault else ""
        defect = defects[label] if by_mask else image.defect
        samples.append(Sample(request.class_name, "test", label, defect, path, mask))
    messages += [f"{cli.label('masks')}: not used: {fault}" for fault in faults[:MAX_FAULTS]]
    if len(faults) > MAX_FAULTS:
        messages.append(f"{cli.label('masks')}: {len(faults) - MAX_FAULTS} more are not used")
    if marked_good:
        messages.append(
            f"{cli.label('masks')}: ignored for images labelled good: {list_names(marked_good)}"
        )
    if tests.images[0].label == UNKNOWN:
        messages += describe_labels(samples, masks)
    messages += describe_missing(samples, masks)
    return samples


def find_masks(request: CustomRequest, tests: Tree, messages: list[str]) -> dict[str, str]:
    """Return the masks of each image: paths joined by `SEPARATOR`, by the path of the image."""
    root = request.images if request.images.is_dir() else request.images.parent
    if request.masks is None:
        folder, files = root, tests.masks
    elif request.masks.is_file():
        folder, files = request.masks.parent, [PurePath(request.masks.name)]
    else:
        folder, files, others = request.masks, [], Tree()
        images = {real_path(root / image.path) for image in tests.images}
        for path in walk(folder, others):
            if path.suffix.lower() not in CUSTOM_SUFFIXES:
                others.pass_over(OTHER_TYPES, path)
            elif real_path(folder / path) not in images:
                files.append(path)
        messages += others.messages("masks")
        given = {real_path(folder / path) for path in files}
        if unused := [path for path in tests.masks if real_path(root / path) not in given]:
            messages.append(
                f"ignored masks inside {cli.label('images')} because --masks was given: "
                f"{list_names(unused)}"
            )
    if request.masks and request.masks.is_file() and len(tests.images) == 1:
        pairs = Pairs({tests.images[0].path: [request.masks]})
    else:
        pairs = pair_masks(tests.images, real_path(root), files, folder)
    if request.masks and not pairs.masks:
        raise InputError(
            f"{cli.label('masks')}: no mask in {request.masks} matches an image; name masks like "
            "the images, <name>.png or <name>_mask.png"
        )
    if request.masks is None and pairs.masks:
        messages.append(
            f"{cli.label('masks')}: using those inside {cli.label('images')}: {list_names(files)}"
        )
    for paths, problem in (
        (pairs.unmatched, "without an image"),
        (pairs.ambiguous, "not used, as several images have their name"),
    ):
        if paths:
            messages.append(f"{cli.label('masks')}: {problem}: {list_names(paths)}")
    return {
        image.as_posix(): SEPARATOR.join(str(real_path(path)) for path in paths)
        for image, paths in pairs.masks.items()
    }


def check_mask_folders(request: CustomRequest, tests: Tree) -> None:
    """Raise `InputError` for a folder of masks beside the good images that seems to hold images.

    None of its files is named like an image, or another such folder has masks of the same images.
    The images of a defect called "label" would be left out, or taken for masks.
    """
    folders: dict[PurePath, list[PurePath]] = defaultdict(list)
    for mask in tests.masks:
        for folder in mask.parents[:-1]:
            if folder.parent in tests.labelled and plain_word(folder.name) in MASK_WORDS:
                folders[folder].append(mask)
    root = real_path(request.images)
    folder_of: dict[PurePath, PurePath] = {}  # of the masks of an image
    for folder, files in folders.items():
        pairs = pair_masks(tests.images, root, files, root)
        if len(pairs.unmatched) == len(files):
            raise InputError(
                f"{cli.label('images')}: no file in {root / folder} is named like an image, so "
                f"they are not masks: {list_names([file.name for file in files])}; if they are "
                "images of a defect, rename the folder, else remove it"
            )
        for image in pairs.masks:
            if (other := folder_of.setdefault(image, folder)) != folder:
                raise InputError(
                    f"{cli.label('images')}: {root / other} and {root / folder} both have a mask "
                    f"of {image}; if one holds images of a defect, rename it, else give the right "
                    "one as --masks"
                )


def read_masks(paths: str, image_size: tuple[int, int]) -> MaskReading:
    """Read the masks of an image of (width, height)."""
    try:
        read_custom_masks(paths, image_size)
    except MaskError as error:
        return MaskReading(error.label, str(error))
    except InputError as error:
        return MaskReading(UNKNOWN, str(error))
    return MaskReading(1)


def describe_labels(samples: Sequence[Sample], masks: Mapping[str, str]) -> list[str]:
    """Say which labels the images of a folder without labels got from their masks."""
    if not masks:
        return []
    counts = [sum(sample.label == label for sample in samples) for label in (1, 0, UNKNOWN)]
    lines = [
        f"labels by masks, as no folder is called good: {counts[0]} anomalous (with a mask), "
        f"{counts[1]} good (without one, or it is all black)"
    ]
    if unusable := sum(sample.label == 1 and not sample.mask for sample in samples):
        lines.append(
            "labelled anomalous by a mask that cannot be used for pixel metrics, because it has "
            f"another shape than its image: {unusable}"
        )
    if counts[2]:
        lines.append(
            "images left out of the metrics, because their mask cannot be used and no folder "
            f"labels them: {counts[2]}"
        )
    return lines


def describe_missing(samples: Sequence[Sample], masks: Mapping[str, str]) -> list[str]:
    """Say which anomalous images have no mask that can be used."""
    anomalous = [sample for sample in samples if sample.label == 1]
    missing = [sample.image for sample in anomalous if not sample.mask]
    if not missing:
        return []
    if len(missing) == len(anomalous):
        reason = "no mask can be used" if masks else "no masks"
        return [f"{reason}, so no pixel metrics"]
    return [
        f"{cli.label('masks')}: anomalous images without one that can be used: "
        f"{list_names(missing)}"
    ]

"""Plan and score a run on a user's own images; the entry point of run_custom.py."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from datasets.custom.find import CustomImages, find_custom_images
from datasets.custom.read_masks import SEPARATOR, read_custom_masks
from datasets.custom.tree import CustomRequest
from datasets.decode import SIXTEEN_BITS
from datasets.references import NO_SEED, ShotSetting
from models.methods import ABILITIES
from utils.cli import exit_on_error, spell
from utils.distributed.context import SINGLE_PROCESS, DistributedContext
from utils.distributed.join import init_distributed
from utils.errors import ANOTHER_FOLDER
from utils.experiment.custom import CustomSettings, check_settings
from utils.experiment.plan import CategoryTask, Experiment, notes_on_masks
from utils.experiment.settings import parse_settings
from utils.files import sha256_of, user_path
from utils.results.folder import check_writable
from utils.results.thresholds import check_false_alarms
from utils.run.benchmark import run
from utils.run.verdicts import report_scores


def main(constants: dict) -> None:
    """Score custom images as a script; `constants` is the globals() of run_custom.py."""
    with init_distributed() as context, exit_on_error(context.print_stderr):
        run_custom(parse_settings(constants, "custom", CustomSettings), context)


def run_custom(settings: CustomSettings, context: DistributedContext = SINGLE_PROCESS) -> None:
    """Score custom images; raise `InputError` for wrong settings before any image is decoded."""
    check_settings(settings)
    if context.is_main:
        check_writable(settings.result_folder, keep=False)
    run(settings, plan_custom(settings), context)


def plan_custom(settings: CustomSettings) -> Experiment:
    """Return the experiment of custom images: zero-shot, and with all reference images.

    A method that needs reference images has no zero-shot scores. Files that cannot be used are
    left out; the run ends with an `InputError` that names them.
    """
    images = find_custom_images(
        CustomRequest(
            images=user_path(settings.images),
            class_name=settings.class_name,
            references=user_path(settings.references) if settings.references else None,
            masks=user_path(settings.masks) if settings.masks else None,
            recursive=settings.recursive,
            good_folder=settings.good_folder,
            resize=settings.resolve().resize,
            tile=settings.tile,
            results=settings.result_folder,
        )
    )
    if not settings.class_name.isascii():
        images.messages.append(
            f"warning: {spell('class_name', settings.class_name)} has letters that are not "
            "English; CLIP's text encoder was trained on English, so scores may be poor"
        )
    references = tuple(sample.image for sample in images.references)
    check_false_alarms(settings.false_alarms, len(references))
    zero_shot = ABILITIES[settings.method].zero_shot
    shot_settings = [ShotSetting(0, NO_SEED, ())] if zero_shot else []
    if references:
        shot_settings.append(ShotSetting(len(references), NO_SEED, references))
    task = CategoryTask(
        settings.class_name,
        shot_settings,
        images.references,
        images.tests,
        leave_one_out=bool(references),
    )
    return Experiment(
        title=settings.class_name,
        root=images.root,
        tasks=[task],
        categories=[settings.class_name],
        notes=images.notes + notes_on_masks(images.tests),
        fingerprint=fingerprint(images),
        draws_references=False,
        apply_exif=True,
        white={settings.class_name: images.white},
        mask_reader=read_custom_masks,
        messages=images.messages + [f"left out: {fault}" for fault in images.faults],
        after_run=partial(report_scores, images, settings),
        faults=explain_faults(images, settings),
    )


def fingerprint(images: CustomImages) -> dict:
    """Return what the results depend on: the pixels, labels and masks of the images, by path."""
    content = {
        "images": {sample.image: images.sha256[sample.image] for sample in images.tests},
        "labels": {sample.image: sample.label for sample in images.tests},
        "masks": {
            sample.image: [sha256_of(Path(path)) for path in sample.mask.split(SEPARATOR)]
            for sample in images.tests
            if sample.mask
        },
        "references": {sample.image: images.sha256[sample.image] for sample in images.references},
    }
    if images.white != SIXTEEN_BITS:
        content["depth"] = asdict(images.white)
    return content


def explain_faults(images: CustomImages, settings: CustomSettings) -> str:
    """Return what the run had to leave out, and what to do about it; "" if nothing."""
    if not images.faults:
        return ""
    total = len(images.faults) + len(images.tests) + len(images.references)
    kinds = "test and reference images" if settings.references else "images"
    first = " (run.log lists all as left out); the first" if len(images.faults) > 1 else ""
    return (
        f"{len(images.faults)} of {total} {kinds} could not be used{first}: {images.faults[0]}. "
        f"After mending them, choose {ANOTHER_FOLDER}"
    )

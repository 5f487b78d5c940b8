"""Score custom images like a benchmark, with a threshold from reference images."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from datasets.custom.find import CustomImages, find_custom_images
from datasets.custom.read_masks import SEPARATOR, read_custom_masks
from datasets.custom.tree import CustomRequest
from datasets.decode import SIXTEEN_BITS
from datasets.references import NO_SEED, ShotSetting
from datasets.splits import UNKNOWN
from models.clip.device import check_without_cuda
from models.clip.weights import check_names
from models.methods import ABILITIES, MethodName, check_checkpoint
from utils.cli import default_text, exit_on_error, label, spell
from utils.distributed.context import SINGLE_PROCESS, DistributedContext
from utils.distributed.join import init_distributed
from utils.errors import ANOTHER_FOLDER, InputError
from utils.experiment.plan import CategoryTask, Experiment, notes_on_masks
from utils.experiment.rules import expect, given_option, refuse
from utils.experiment.settings import EXTRA_STATES, Settings, parse_settings
from utils.files import PROJECT, real_path, sha256_of, user_path, write_text
from utils.log import log
from utils.results.folder import check_writable, read_finished, read_json
from utils.results.scores import Scores, load_scores, write_score_table
from utils.results.thresholds import (
    Threshold,
    check_false_alarms,
    explain_threshold,
    reference_threshold,
)
from utils.run.benchmark import run

MAX_LISTED = 20  # highest scores listed on the console
MAX_NAME_BYTES = 200  # of a class name, which becomes part of file names of at most 255 bytes


@dataclass(frozen=True)
class CustomOptions:
    """The options of custom images, which --help lists before the others."""

    images: Annotated[str, default_text("none")] = ""
    """An image, or a folder of images; if it has a subfolder "good", subfolders are labels."""
    class_name: Annotated[str, default_text("none")] = ""
    """What the images show, in a word or two of English: "metal nut"."""
    references: Annotated[str, default_text("none, zero-shot only")] = ""
    """Folder of images of good parts, for WinCLIP+."""
    masks: Annotated[str, default_text("those inside the image folder, if any")] = ""
    """Folder of masks, named like the images, or one mask."""
    false_alarms: Annotated[float | None, default_text("none", "FLOAT")] = None
    """Share of good images that may exceed the threshold, such as 0.05; needs enough references."""
    good_folder: Annotated[str, default_text('"good", "ok", "pass", "normal" and the like')] = ""
    """Name of the subfolder of good images."""
    recursive: bool = False
    """Include the images in all subfolders, such as folders by date."""


@dataclass(frozen=True)
class CustomSettings(Settings, CustomOptions):
    """The settings for custom images: `Settings`, with folders in place of a split."""

    dataset: tyro.conf.Suppress[Literal["custom"]] = "custom"
    # Repeated: `CustomOptions` lists it first in --help, but `Settings` replaces its default there.
    references: Annotated[str, default_text("none, zero-shot only")] = ""
    """Folder of images of good parts, for WinCLIP+."""
    data_root: tyro.conf.Suppress[str] = ""
    split: tyro.conf.Suppress[str] = ""
    categories: tyro.conf.Suppress[tuple[str, ...]] = ()
    extra_normal_states: Annotated[tuple[str, ...], default_text("none")] = ()
    """Additional normal states, such as "{} with neat soldering"."""
    extra_anomalous_states: Annotated[tuple[str, ...], default_text("none")] = ()
    """Additional anomalous states, such as "{} with bad soldering"."""
    shots: tyro.conf.Suppress[tuple[int, ...]] = (0,)
    seeds: tyro.conf.Suppress[tuple[int, ...]] = (0,)
    limit: tyro.conf.Suppress[int | None] = None
    result_dir: str = "auto"
    """Folder of the results; "auto": result/custom/<name of images>, or ...-with-references."""

    STATE_FORM = 'a state with one {} for the class name, as in "{} with rust"'

    def __post_init__(self) -> None:
        """Raise `InputError` for a rate out of range, and a class name that no file can have.

        States without a class, such as "{} with a scratch", are those of the class name.
        """
        super().__post_init__()
        for name in EXTRA_STATES:
            states = (self.with_class_name(name, state) for state in getattr(self, name))
            object.__setattr__(self, name, tuple(states))
        valid = self.false_alarms is None or 0 < self.false_alarms < 1
        text = "a number between 0 and 1, such as 0.05 for 5 % of the good images"
        expect(valid, self, "false_alarms", text)
        if set(self.class_name) & set('/\\:*?"<>|{}') or self.class_name.startswith("."):
            raise InputError(
                f"{spell('class_name', self.class_name)}: give a word or two, such as "
                r'"metal nut", without / \ : * ? " < > | { } and without a leading dot'
            )
        if len(self.class_name.encode()) > MAX_NAME_BYTES:
            raise InputError(
                f'{label("class_name")}: "{self.class_name[:40]}..." is too long for a prompt and '
                'for the name of a file; give a word or two, such as "metal nut"'
            )

    def with_class_name(self, setting: str, entry: str) -> str:
        """Return an entry of additional states as "class: state"; raise `InputError` for others."""
        if "{}" not in entry.partition(":")[0]:
            return entry
        self.check_state(setting, entry, entry)
        return f"{self.class_name}: {entry}"

    def resolve(self) -> "CustomSettings":
        """Return a copy as `Settings.resolve` does, with the absolute path of the images."""
        folder = self.references and user_path(self.references).is_dir()
        if user_path(self.images).is_file() and not folder:
            names = [name for name in ("recursive", "good_folder") if given_option(self, name)]
            refuse(self, dict.fromkeys(names, "without a folder of images"))
        return replace(super().resolve(), images=str(real_path(user_path(self.images))))

    @property
    def few_shot(self) -> bool:
        """Return whether the run has reference images."""
        return bool(self.references)

    def check_references(self) -> None:
        """Raise `InputError` if METHOD needs reference images and there are none."""
        if not ABILITIES[self.method].zero_shot and not self.references:
            method = spell("method", self.method)
            raise InputError(f"{method} needs reference images: add --references GOOD_DIR")

    @property
    def result_folder(self) -> Path:
        """Return the folder of the results, named after the images.

        Where another folder of that name has been scored before, the name of its parent precedes
        it, or a checksum of the path follows.
        """
        if self.result_dir != "auto":
            return user_path(self.result_dir)
        images = real_path(user_path(self.images))
        name = images.stem if images.is_file() else images.name
        suffix = ("-with-references" if self.references else "") + self.folder_suffix
        checksum = hashlib.sha256(os.fsencode(images)).hexdigest()[:8]
        names = name, f"{images.parent.name}-{name}", f"{name}-{checksum}"
        folders = [PROJECT / "result" / "custom" / f"{name}{suffix}" for name in names]
        owners = [scored_images(folder) for folder in folders]
        owner = str(images) if str(images) in owners else ""
        return next((f for f, o in zip(folders, owners, strict=True) if o == owner), folders[-1])

    def default_features(self) -> list[Path]:
        """Return the folders of runs with and without references."""
        runs = [replace(self, references=references) for references in ("", "with")]
        return [folder for run in runs for folder in Settings.default_features(run)]


def scored_images(folder: Path) -> str:
    """Return the path of the images that a result folder belongs to; "" if there are no results."""
    if not (folder / "settings.json").exists():
        return ""
    try:
        return read_json(folder / "settings.json", "settings")["settings"]["images"]
    except (InputError, KeyError, TypeError):
        return "unknown"


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


def check_settings(settings: CustomSettings) -> None:
    """Raise `InputError` for missing settings, a wrong device, precision, model or weights.

    A checkpoint must exist.
    """
    for option, value in (("images", settings.images), ("class_name", settings.class_name)):
        if not value.strip():
            raise InputError(
                f"{label(option)} is not set; set it at the top of run_custom.py, or run python "
                f'run_custom.py --images DIR --class-name "metal nut"'
            )
    for setting in EXTRA_STATES:
        for category, state in settings.states(setting):
            if category != settings.class_name:
                raise InputError(
                    f'{label(setting)} "{category}: {state}": "{category}" is not the class name '
                    f'"{settings.class_name}"; give "{state}" without it'
                )
    results = real_path(settings.result_folder)
    for option, given in (("images", settings.images), ("references", settings.references)):
        if given and real_path(user_path(given)) == results:
            raise InputError(
                f"{label('result_dir')}: {results} is the folder of {label(option)}; choose "
                f"{ANOTHER_FOLDER}"
            )
    check_without_cuda(settings.device, settings.precision)
    resolved = settings.resolve()
    check_checkpoint(resolved.method, resolved.checkpoint, resolved.dataset)
    check_names(resolved.model, resolved.pretrained)


def plan_custom(settings: CustomSettings) -> Experiment:
    """Return the experiment of custom images: zero-shot, and with all reference images.

    A method that needs reference images has no zero-shot scores. Files that cannot be used are
    skipped, and reported as an `InputError` at the end of the run.
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
        messages=images.messages + [f"skipped: {fault}" for fault in images.faults],
        after_run=partial(report_scores, images, settings),
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


def report_scores(images: CustomImages, settings: CustomSettings, folder: Path) -> None:
    """Write scores and verdicts, print the highest scores, and name unusable files."""
    class_name, rate = settings.class_name, settings.false_alarms
    scores = load_scores(folder / "scores" / f"{class_name}.npz")
    finished = read_finished(folder)[class_name]
    threshold = reference_threshold(finished, rate)
    defects = {sample.image: sample.defect for sample in images.tests}
    write_score_table(folder / "scores" / f"{class_name}.csv", scores, defects, threshold)
    records = score_records(scores, threshold)
    write_text(folder / "scores.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    name = scores.run_names()[-1]
    listed = f", the highest {MAX_LISTED}" if len(records) > MAX_LISTED else ""
    log.info(f"scores of {len(records)} test image{'s' * (len(records) > 1)}, {name}{listed}")
    for record in sorted(records, key=lambda record: -record[name])[:MAX_LISTED]:
        mark = "  above the threshold" if record.get("above_threshold") else ""
        log.info(f"  {record[name]:.3f}  {record['image']}{mark}")
    if threshold:
        above = sum(record["above_threshold"] for record in records)
        explained = explain_threshold(threshold.value, len(images.references), rate)
        log.info(f"\nabove the threshold: {above} of {len(records)} images")
        log.info(f"{name}: {explained}")
        drawn = finished.get("panel_threshold", threshold.value)  # older panels have none
        if settings.heatmaps != "none" and drawn != threshold.value:
            log.info(
                f"the heatmaps still state the threshold {drawn:.4f}; to draw them again, delete "
                f"{folder / 'done'} and start again"
            )
        highest = max(zip(finished["leave_one_out"], images.references, strict=True))[1].image
        log.info(
            f"reference image with the highest score: {highest}; leave it out if it is damaged"
        )
    else:
        log.info(f"\n{explain_scores(len(images.references), settings.method)}")
    if images.faults:
        total = len(images.faults) + len(images.tests) + len(images.references)
        kinds = "test and reference images" if settings.references else "images"
        raise InputError(
            f"{len(images.faults)} of {total} {kinds} could not be used; the others were. First "
            f"problem: {images.faults[0]}; run.log lists all as skipped. Once they can be used, "
            f"choose {ANOTHER_FOLDER}: {folder} holds the results without them"
        )


def score_records(scores: Scores, threshold: Threshold | None) -> list[dict]:
    """Return the entries of scores.json, one per image.

    Keys: image; anomalous, if labelled; the image score of each run under the run's name; with a
    threshold also threshold and above_threshold, which is the verdict of the last run.
    """
    records = []
    for index, image in enumerate(scores.image.tolist()):
        record = {"image": image}
        if scores.label[index] != UNKNOWN:
            record["anomalous"] = bool(scores.label[index])
        for run_index, name in enumerate(scores.run_names()):
            record[name] = float(scores.image_scores[run_index, index])
        if threshold:
            record["threshold"] = threshold.value
            record["above_threshold"] = bool(threshold.exceeded_by(scores.image_scores[-1, index]))
        records.append(record)
    return records


def explain_scores(references: int, method: MethodName = "winclip") -> str:
    """Return what scores without a threshold mean, and what they do not mean."""
    text = (
        "The scores rank the images. They are not calibrated: 0.5 does not separate good from "
        "damaged, and scores of two classes cannot be compared."
    )
    if not ABILITIES[method].few_shot:
        return text
    option = "" if references else " (--references)"
    return f"{text} Two or more reference images{option} also give a threshold."

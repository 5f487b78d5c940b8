"""The settings of a run on a user's own images, which has folders in place of a split."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from models.clip.device import check_without_cuda
from models.clip.weights import check_names
from models.methods import ABILITIES, check_checkpoint
from utils.cli import default_text, label, spell
from utils.errors import ANOTHER_FOLDER, InputError
from utils.experiment.options import AUTO_FOLDER
from utils.experiment.rules import expect, given_option, refuse
from utils.experiment.settings import EXTRA_STATES, Settings
from utils.files import PROJECT, real_path, user_path
from utils.results.folder import read_json

MAX_NAME_BYTES = 200  # of a class name, which becomes part of file names of at most 255 bytes


@dataclass(frozen=True)
class CustomOptions:
    """The options of custom images, which --help lists before the others."""

    images: Annotated[str, default_text("required", "FILE|FOLDER")] = ""
    """An image, or a folder of images; if it has a subfolder "good", subfolders are labels."""
    class_name: Annotated[str, default_text("required")] = ""
    """What the images show, in a word or two of English: "metal nut"."""
    references: Annotated[str, default_text("none, zero-shot only", "FOLDER")] = ""
    """Folder of images of good parts, for WinCLIP+."""
    masks: Annotated[str, default_text("those in the image folder, if any", "FILE|FOLDER")] = ""
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
    references: Annotated[str, default_text("none, zero-shot only", "FOLDER")] = ""
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
    result_dir: Annotated[str, AUTO_FOLDER] = "auto"
    """Folder of the results; "auto": result/custom/<name of images>, or ...-with-references."""

    STATE_FORM = 'a state with one {} for the class name, as in "{} with rust"'

    def __post_init__(self) -> None:
        """Raise `InputError` for a rate out of range, or a class name unfit for file names.

        States without a class name, such as "{} with a scratch", get this one.
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
        """Return an additional state as "category: state"; raise `InputError` if it has no {}."""
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
        for owner in (str(images), ""):  # the folder of these images, or else the first free one
            if owner in owners:
                return folders[owners.index(owner)]
        return folders[-1]

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

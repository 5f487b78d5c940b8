"""The settings of a run: a runner's constants, overridden by the command line, resolved once."""

import os
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import tyro

from datasets.splits import SPLITS_FOLDER, check_name, read_root
from datasets.tiles import CropVariant
from models.clip.weights import RANDOM
from models.methods import ABILITIES, BACKBONES
from utils.cli import label, parse_options, spell
from utils.errors import InputError
from utils.experiment.options import NameOption, RunOptions
from utils.experiment.presets import PRESETS
from utils.experiment.rules import check_combinations, check_effects, check_values, fixed_values
from utils.files import PROJECT, user_path
from utils.results.folder import FEATURES_FOLDER, LATER_SETTINGS
from utils.results.methods import METHOD_NAMES

# Settings that may change when a run is resumed: they do not affect scores (on CUDA, beyond
# rounding), or their content is compared instead. Finished categories keep their heatmaps.
NOT_FINGERPRINTED = (
    *("data_root", "categories", "batch_size", "num_workers", "device", "result_dir", "quiet"),
    *("heatmaps", "heatmap_size", "deterministic"),
    "kept_crops",
    *("features", "features_precision"),  # compared if features are rounded
    *("coco", "false_alarms"),  # what they change is written anew at the end of every run
    # Compared by content:
    *("protocol", "split", "references", "model", "pretrained", "checkpoint", "images", "masks"),
    *("recursive", "good_folder"),
)
EXTRA_STATES = ("extra_normal_states", "extra_anomalous_states")
MAX_WORKERS = 8  # of NUM_WORKERS = "auto"


@dataclass(frozen=True)
class Settings(RunOptions):
    """Everything that a run depends on."""

    STATE_FORM = '"category: state" with one {} for its name, as in "pcb1: {} with rust"'

    def __post_init__(self) -> None:
        """Raise `InputError` for invalid values; make a single EVAL_SIZE a tuple."""
        if isinstance(self.eval_size, int | str):
            object.__setattr__(self, "eval_size", (self.eval_size,))
        check_values(self)

    def resolve(self) -> "Settings":
        """Return a copy in which presets, "auto" and ~ are replaced by their values.

        `device` keeps "auto", because each process of a distributed run chooses its own. Raises
        `InputError` where a preparation script has not been run.
        """
        protocol = PRESETS[self.protocol]
        values = {name: value for name, value in protocol.items() if getattr(self, name) is None}
        paths = ("split", "references", "data_root", "images", "masks")
        for name in (*paths, "model", "pretrained", "checkpoint"):
            if getattr(self, name, "").startswith("~"):
                values[name] = str(user_path(getattr(self, name)))
        for name, default in zip(("model", "pretrained"), BACKBONES[self.method], strict=True):
            if getattr(self, name) == "auto":
                values[name] = default
        if self.num_workers == "auto":
            values["num_workers"] = core_share(MAX_WORKERS)
        check_effects(self)
        resolved = replace(self, **values | fixed_values(self))
        check_combinations(resolved)
        self.check_references()
        return replace(resolved, result_dir=str(self.result_folder), **self.data_paths())

    def check_references(self) -> None:
        """Raise `InputError` for numbers of reference images that METHOD cannot use."""
        name, abilities = METHOD_NAMES[self.method], ABILITIES[self.method]
        shots = spell("shots", self.shots)
        if not abilities.few_shot and self.few_shot:
            raise InputError(f"{shots}: {name} is zero-shot only; give --shots 0")
        if not abilities.zero_shot and 0 in self.shots:
            raise InputError(
                f"{shots}: {name} needs reference images; give --shots with the number that the "
                "checkpoint was trained for, such as --shots 2"
            )

    def data_paths(self) -> dict[str, str]:
        """Return the data root and split that "auto" stands for."""
        paths = {}
        if self.split == "auto":
            paths["split"] = str(SPLITS_FOLDER / f"{self.benchmark}.csv")
        if self.data_root == "auto":
            paths["data_root"] = str(read_root(self.benchmark))
        return paths

    @property
    def benchmark(self) -> str:
        """Return the name of the split's files and of the result folder."""
        return self.dataset

    @property
    def result_folder(self) -> Path:
        """Return the folder of the results."""
        if self.result_dir == "auto":
            return PROJECT / "result" / f"{self.benchmark}{self.folder_suffix}"
        return user_path(self.result_dir)

    @property
    def folder_suffix(self) -> str:
        """Return the suffix of the result folder's name, which names the method.

        Runs without maps and random weights never share a folder with others. `datasets.splits`
        reserves these suffixes.
        """
        random = RANDOM in (self.pretrained, self.checkpoint)
        method = f"-{self.method}"
        if self.method == "winclip":
            method = "" if self.maps else "-no-maps"
        return method + "-random" * random

    @property
    def encoded_crops(self) -> tuple[CropVariant, ...]:
        """Return the variants of MULTI_CROP whose crops the run encodes."""
        further = self.kept_crops if self.features == "keep" else ()
        return tuple(dict.fromkeys(name for name in (self.multi_crop, *further) if name != "none"))

    @property
    def named_features(self) -> Path | None:
        """Return the folder of the features that FEATURES names; None if it names none."""
        named = self.features not in ("auto", "keep", "off")
        return user_path(self.features) / FEATURES_FOLDER if named else None

    def features_folders(self) -> dict[Path, bool]:
        """Return the folders to search for kept features: preferred first; True if they must fit.

        Features in default result folders need not fit.
        """
        if self.features == "off":
            return {}
        folder = self.result_folder / FEATURES_FOLDER
        if self.named_features:
            return {folder: True, self.named_features: True}
        return {path: path == folder for path in (folder, *self.default_features())}

    def default_features(self) -> list[Path]:
        """Return the folders of features in the default result folders of the same images.

        Only runs with maps keep features.
        """
        return [replace(self, result_dir="auto", maps=True).result_folder / FEATURES_FOLDER]

    def extra_states(self, category: str) -> tuple[list[str], list[str]]:
        """Return the additional normal and anomalous states of one category."""
        normal, anomalous = (
            [state for name, state in self.states(setting) if name == category]
            for setting in EXTRA_STATES
        )
        return normal, anomalous

    def mentioned_categories(self) -> list[str]:
        """Return all categories that the settings name; each must exist in the split."""
        states = [state for setting in EXTRA_STATES for state in self.states(setting)]
        return [*self.categories, *(name for name, _ in states)]

    def states(self, setting: str) -> list[tuple[str, str]]:
        """Split the entries of a setting, "class: state"; raise `InputError` for other forms."""
        states = []
        for entry in getattr(self, setting):
            name, colon, state = (text.strip() for text in entry.partition(":"))
            self.check_state(setting, entry, state if colon else "")
            states.append((name, state))
        return states

    def check_state(self, setting: str, entry: str, state: str) -> None:
        """Raise an `InputError` that quotes an entry of a setting unless its state has one {}."""
        if state.count("{}") != 1 or set(state.replace("{}", "")) & set("{}"):
            raise InputError(f'{label(setting)} "{entry}": expected {self.STATE_FORM}')

    def fingerprint(self) -> dict:
        """Return the resolved settings that determine the results.

        Results made with different ones are never mixed. Settings that were added later are left
        out at their original values, so that older folders can be resumed.
        """
        settings = asdict(self)
        if len(self.eval_size) == 1:
            settings["eval_size"] = self.eval_size[0]
        for name, value in LATER_SETTINGS.items():
            if settings[name] == value:
                del settings[name]
        if self.multi_crop == "none":
            del settings["multi_crop_average"]
        return {name: value for name, value in settings.items() if name not in NOT_FINGERPRINTED}


@dataclass(frozen=True)
class DemoSettings(Settings):
    """The settings of the demo, which draws few heatmaps unless more are asked for."""

    heatmaps: int | Literal["all", "none"] = 1
    """Heatmaps to draw: all, none, or the first N of each defect and of the good images."""


@dataclass(frozen=True)
class FolderSettings(Settings, NameOption):
    """The settings of a user's own benchmark: `Settings`, and its name."""

    dataset: Annotated[Literal["folder"], tyro.conf.Suppress] = "folder"

    def resolve(self) -> "FolderSettings":
        """Return a copy as `Settings.resolve` does; raise `InputError` for a bad name."""
        if not self.name:
            raise InputError(
                f"{label('name')} is not set; set it at the top of the script, or add --name NAME, "
                "with the name that you gave to datasets/folder.py"
            )
        check_name(self.name)
        return super().resolve()

    @property
    def benchmark(self) -> str:
        """Return the user's name for the benchmark."""
        return self.name


def core_share(limit: int) -> int:
    """Return this process's share of the cores of its machine: 1 to `limit`."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))  # those that a job scheduler grants
    else:
        cores = os.cpu_count() or 1
    return min(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))), limit)


def parse_settings(
    constants: dict, dataset: str, settings_class: type[Settings] = Settings
) -> Settings:
    """Return a runner's settings: its constants, overridden by the command line.

    `constants` is the runner's globals(). Raises `InputError` for an unknown constant (exit status
    1) and for a wrong option (2).
    """
    script = Path(constants["__file__"])
    given = {name.lower(): value for name, value in constants.items() if name.isupper()}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    known = {field.name for field in fields(settings_class)} - {"dataset"}
    for name in given.keys() - known:
        near = " or ".join(get_close_matches(name, known))
        hint = f" (did you mean {near.upper()}?)" if near else ""
        raise InputError(
            f"{script.name}: unknown setting {name.upper()}{hint}; the settings are "
            f"{', '.join(sorted(known)).upper()}"
        )
    default = settings_class(dataset=dataset, **given)
    return parse_options(default, constants["__doc__"], script)

"""The settings of a run: a runner's constants, overridden by the command line, resolved once."""

import os
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import tyro

from datasets.images import EvalSize, Resize
from datasets.splits import SPLITS_FOLDER, check_name, read_root
from datasets.tiles import CropVariant, MultiCrop
from models.clip.encoder import PatchTokens
from models.clip.weights import IN_CHECKPOINT, RANDOM
from models.methods import ABILITIES, BACKBONES, MethodName
from models.prompts import Templates
from models.winclip import CropAverage
from utils.cli import parse_options
from utils.errors import InputError
from utils.experiment.presets import DEFAULT, FIXED, PRESETS, WITHOUT_MAPS
from utils.experiment.types import describe_type, has_type
from utils.files import PROJECT, is_printable_name, user_path
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
MAX_WORKERS = 8  # of NUM_WORKERS = "auto"
MAX_EVAL_SIZE = 8192  # a map of this size takes 268 MB


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on; the strings below the fields are the help texts."""

    dataset: Annotated[
        Literal["mvtec", "visa", "mpdd", "demo", "folder", "custom"], tyro.conf.Suppress
    ]
    data_root: str = "auto"
    """Folder of the raw dataset; "auto": the folder that its preparation script was given."""
    split: str = "auto"
    """Split CSV; "auto": the one that the preparation script wrote to datasets/splits/."""
    categories: tuple[str, ...] = ()
    """Categories to run; none given: all categories of the split."""
    shots: tuple[int, ...] = (0, 1, 2, 4)
    """Numbers of normal reference images; 0 is zero-shot."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds for drawing reference images, each used for every number of shots above 0."""
    references: str = "draw"
    """"draw", or a CSV of reference images in the format of a run's shots.csv."""
    method: MethodName = "winclip"
    """WinCLIP and WinCLIP+; AnomalyCLIP, which is zero-shot; or InCTRL, which needs reference
    images and has no maps. The last two need CHECKPOINT."""
    checkpoint: str = ""
    """File that the authors of AnomalyCLIP or InCTRL have released; "random" for a trial."""
    maps: bool = True
    """Compute anomaly maps. Without them, WinCLIP encodes no windows and is about ten times as
    fast; its zero-shot image scores stay the same, and WinCLIP+ compares patch tokens alone."""
    model: str = "auto"
    """An open_clip model with a class token, or a model config (.json); "auto": the method's."""
    pretrained: str = "auto"
    """An open_clip tag, a weight file, a folder that contains one, or "random"; "auto": the weights
    of the method's backbone."""
    protocol: Literal["paper", "public"] = "paper"
    """Preset for the eight options below, each of which can also be set individually."""
    templates: Templates | None = None
    """The paper's 22 prompt templates, or the public list of 21."""
    class_words: bool | None = None
    """Write "metal nut" instead of "metal_nut" in prompts."""
    normalise_prompts: bool | None = None
    """Normalise each prompt embedding before averaging."""
    temperature: float | None = None
    """Temperature of the softmax over states."""
    patch_tokens: PatchTokens | None = None
    """Patch tokens that WinCLIP+ compares: of the last block, after or before ln_post, or of the
    penultimate block."""
    resize: Resize | None = None
    """Cut non-square images into overlapping square tiles, squash them to a square, or, without
    maps, crop their centre."""
    multi_crop: MultiCrop | None = None
    """Also encode crops of each image, whose mean gives the zero-shot image score: a hypothesis
    about a step that the paper does not define."""
    multi_crop_average: CropAverage | None = None
    """Average the embeddings of the crops, or their scores."""
    kept_crops: Annotated[tuple[CropVariant, ...], tyro.conf.Suppress] = ()
    """Variants of MULTI_CROP whose crops an ablation keeps besides."""
    tile: int = 0
    """Cut images into overlapping tiles of this many pixels, for small defects on large images; the
    image score is the highest of its tiles. 0: one tile, or a row of them, as the protocol says."""
    scales: tuple[int, ...] = (2, 3)
    """Window sizes, in patches."""
    extra_normal_states: tuple[str, ...] = ()
    """Additional normal states, each "class: state", such as "pcb1: {} with neat soldering"."""
    extra_anomalous_states: tuple[str, ...] = ()
    """Additional anomalous states, each "class: state", such as "pcb1: {} with bad soldering"."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "int8"] = "fp32"
    """Precision of the image encoder; refused if the device does not support it."""
    device: str = "auto"
    """"auto" (CUDA if available), "cpu", "cuda" or "cuda:N"."""
    deterministic: bool = False
    """Make CUDA runs bitwise reproducible, but slower; CPU runs are always reproducible."""
    batch_size: int = 8
    """Images decoded and sent to the device together; 1 or more. With TILE, it is always 1."""
    num_workers: int | Literal["auto"] = "auto"
    """Processes that decode images, and as many that write results on a GPU machine, beside the
    encoder; "auto": one per core, at most 8; 0: do all in the main process."""
    eval_size: tuple[EvalSize, ...] = (240,)
    """Shorter side of maps and masks in the pixel metrics, or "source": each image's own size.
    Sizes after the first add their metrics, such as pixel_auroc@400; all else uses the first."""
    extra_metrics: bool = False
    """Also compute AUPRO up to a false positive rate of 0.05, the maximal IoU, and the mean of the
    seven metrics."""
    heatmaps: int | Literal["all", "none"] = "all"
    """Heatmaps to draw: all, none, or the first N of each defect and of the good images; ignored
    without maps."""
    heatmap_size: int = 256
    """Height of each image in a heatmap, in pixels; 64 or more."""
    coco: bool = False
    """Also write defects_coco.json: the detected defects in COCO's format."""
    limit: int | None = None
    """Use only the first N good test images and the first N of each defect, for a trial."""
    features: str = "auto"
    """"auto": use kept features, if any; "keep": also write them, to score other prompts, shots or
    seeds without encoding again; "off": neither; or a result folder whose features to use."""
    features_precision: Literal["fp16", "fp32"] = "fp16"
    """Precision in which FEATURES = "keep" writes features, and scores them; fp32 takes twice the
    space."""
    result_dir: str = "auto"
    """Folder of the results; "auto": result/<dataset>, with the method, -no-maps and -random
    appended where they apply."""
    quiet: bool = False
    """Print nothing but errors; run.log in the result folder has the rest."""

    def __post_init__(self) -> None:
        """Raise `InputError` for invalid values; make a single EVAL_SIZE a tuple."""
        if isinstance(self.eval_size, int | str):
            object.__setattr__(self, "eval_size", (self.eval_size,))
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not has_type(value, hint):
                raise InputError(f"{name.upper()} = {value!r}: expected {describe_type(hint)}")
            if isinstance(value, str) and not is_printable_name(value):
                raise InputError(
                    f"{name.upper()} = {value!a}: contains control characters or invalid UTF-8;"
                    " use another value"
                )
        for name in ("shots", "seeds"):
            values = getattr(self, name)
            if not values or min(values) < 0 or len(set(values)) != len(values):
                raise InputError(f"{name.upper()} = {values}: expected distinct whole numbers >= 0")
        sizes = [size for size in self.eval_size if size != "source"]
        distinct = len(set(self.eval_size)) == len(self.eval_size)
        in_range = all(1 <= size <= MAX_EVAL_SIZE for size in sizes)
        if not (self.eval_size and distinct and in_range):
            raise InputError(
                f"EVAL_SIZE = {self.eval_size}: expected distinct whole numbers from 1 to "
                f'{MAX_EVAL_SIZE}, or "source"'
            )
        minima = {"batch_size": 1, "limit": 1, "num_workers": 0, "heatmap_size": 64, "tile": 0}
        for name, minimum in minima.items():
            value = getattr(self, name)
            if isinstance(value, int) and value < minimum:
                raise InputError(f"{name.upper()} = {value}: expected a whole number >= {minimum}")
        if isinstance(self.heatmaps, int) and self.heatmaps < 0:
            raise InputError(
                f'HEATMAPS = {self.heatmaps}: expected "all", "none" or a whole number >= 0'
            )
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise InputError(f"TEMPERATURE = {self.temperature}: expected a number > 0")

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
        values |= self.fixed_values()
        self.check_method(values)
        self.check_references()
        values["result_dir"] = str(self.result_folder)
        if self.num_workers == "auto":
            values["num_workers"] = core_share(MAX_WORKERS)
        resize = values.get("resize", self.resize)
        if self.tile and resize != "tile":
            kind = {"squash": "squashed", "centre_crop": "cropped"}[resize]
            raise InputError(f"TILE = {self.tile}: {kind} images have no tiles; add --resize tile")
        if self.maps and resize == "centre_crop" and self.method == "winclip":
            raise InputError(
                'RESIZE = "centre_crop": maps must cover the whole image; add --no-maps, or '
                "choose another value"
            )
        average = values.get("multi_crop_average", self.multi_crop_average)
        if values.get("multi_crop", self.multi_crop) == "none" and average != "embeddings":
            raise InputError(
                f'MULTI_CROP_AVERAGE = "{average}": there are no crops; set MULTI_CROP as well'
            )
        return replace(self, **values | self.data_paths())

    def fixed_values(self) -> dict:
        """Return the values that METHOD and MAPS leave no choice of.

        Raises `InputError` for a setting that would have no effect.
        """
        method = FIXED[self.method]
        no_maps = {} if method.get("maps", self.maps) else WITHOUT_MAPS
        defaults = {field.name: field.default for field in fields(self)}
        values = {}
        for fixed, reason in ((method, f'METHOD = "{self.method}"'), (no_maps, "MAPS = False")):
            for name, value in fixed.items():
                if name not in defaults:
                    continue
                if value is DEFAULT:
                    value = defaults[name]
                if value == IN_CHECKPOINT and self.checkpoint == RANDOM:
                    value = RANDOM  # there is no file with a backbone
                if (given := getattr(self, name)) not in (defaults[name], value):
                    raise InputError(
                        f"{name.upper()} = {given!r} has no effect with {reason}; remove it"
                    )
                values[name] = value
        if no_maps:
            values["heatmaps"] = "none"
        return values

    def check_method(self, values: dict) -> None:
        """Raise `InputError` for settings that contradict METHOD or MAPS."""
        if self.method != "winclip" and not self.checkpoint:
            raise InputError(
                f'METHOD = "{self.method}" needs CHECKPOINT: give the file that its authors have '
                'released (docs/protocol.md), or "random" for a trial'
            )
        if self.pretrained == IN_CHECKPOINT != values.get("pretrained"):
            raise InputError(
                f'PRETRAINED = "{IN_CHECKPOINT}" is for InCTRL alone; give an open_clip tag, a '
                f"weight file, or a folder (./{IN_CHECKPOINT} for one of that name)"
            )
        if not values.get("maps", self.maps) and self.features == "keep":
            raise InputError(
                'FEATURES = "keep": without maps, no windows are encoded that could be kept; keep '
                "features in a run with maps, whose features this one can use"
            )

    def check_references(self) -> None:
        """Raise `InputError` for numbers of reference images that METHOD cannot use."""
        name, abilities = METHOD_NAMES[self.method], ABILITIES[self.method]
        if not abilities.few_shot and self.shots != (0,):
            raise InputError(f"SHOTS = {self.shots}: {name} is zero-shot only; add --shots 0")
        if not abilities.zero_shot and 0 in self.shots:
            raise InputError(
                f"SHOTS = {self.shots}: {name} needs reference images; add --shots with the number "
                "that the checkpoint was trained for, such as --shots 2"
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
        """Return what names the method in the result folder's name.

        Runs without maps and random weights never share a folder with others. The ends of these
        names are reserved in `datasets.splits`.
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
        """Return the folders in which kept features are looked for, in the order of preference.

        Each is mapped to whether its features must fit: those of the default folder need not.
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
            [state for name, state in parse_states(entries) if name == category]
            for entries in (self.extra_normal_states, self.extra_anomalous_states)
        )
        return normal, anomalous

    def mentioned_categories(self) -> list[str]:
        """Return all categories that the settings name; each must exist in the split."""
        extra = parse_states((*self.extra_normal_states, *self.extra_anomalous_states))
        return [*self.categories, *(name for name, _ in extra)]

    def fingerprint(self) -> dict:
        """Return the resolved settings that determine the results.

        Results made with different ones are never mixed. WinCLIP with maps, one evaluation size,
        the seven metrics and no crops are recorded as before there was a choice, so that older
        folders can be continued.
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
class FolderSettings(Settings):
    """The settings of a user's own benchmark: `Settings`, and its name."""

    name: str = ""
    """Name of the benchmark, as given to datasets/folder.py."""

    def resolve(self) -> "FolderSettings":
        """Return a copy as `Settings.resolve` does; raise `InputError` for a bad name."""
        if not self.name:
            raise InputError(
                "NAME is not set; set it at the top of the script, or add --name NAME, with the "
                "name that you gave to datasets/folder.py"
            )
        check_name(self.name)
        return super().resolve()

    @property
    def benchmark(self) -> str:
        """Return the user's name for the benchmark."""
        return self.name


def core_share(most: int) -> int:
    """Return this process's share of the cores of its machine: 1 to `most`."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))  # those that a job scheduler grants
    else:
        cores = os.cpu_count() or 1
    return min(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))), most)


def parse_states(entries: tuple[str, ...]) -> list[tuple[str, str]]:
    """Split entries of the form "class: state" into pairs; raise `InputError` for other forms."""
    states = []
    for entry in entries:
        name, colon, state = (text.strip() for text in entry.partition(":"))
        if not colon or state.count("{}") != 1 or set(state.replace("{}", "")) & set("{}"):
            raise InputError(
                f'EXTRA_NORMAL_STATES, EXTRA_ANOMALOUS_STATES: "{entry}" is not of the form '
                '"class: state" with one {} for the class name, as in "pcb1: {} with bad soldering"'
            )
        states.append((name, state))
    return states


def parse_settings(constants: dict, dataset: str, kind: type[Settings] = Settings) -> Settings:
    """Return the settings of a runner as a `kind`: its constants, overridden by the command line.

    `constants` is the runner's globals(). Raises `InputError` for an unknown constant (exit status
    1) and for a wrong option (2).
    """
    script = Path(constants["__file__"])
    given = {name.lower(): value for name, value in constants.items() if name.isupper()}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    known = {field.name for field in fields(kind)} - {"dataset"}
    for name in given.keys() - known:
        near = " or ".join(get_close_matches(name, known))
        hint = f" (did you mean {near.upper()}?)" if near else ""
        raise InputError(
            f"{script.name}: unknown setting {name.upper()}{hint}; the settings are "
            f"{', '.join(sorted(known)).upper()}"
        )
    return parse_options(kind(dataset=dataset, **given), constants["__doc__"], script)

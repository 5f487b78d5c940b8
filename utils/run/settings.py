"""The settings of a run: a runner's constants fill them, the command line may override them."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from datasets.images import Resize
from models.encoder import PatchTokens
from models.prompts import Templates
from models.weights import RANDOM
from utils.cli import parse_options
from utils.errors import InputError
from utils.files import PROJECT, is_printable_name, user_path

# What may change from one run to the next into the same result folder: it moves no number, or
# is told by a checksum instead of a name.
FREE = (
    *("data_root", "categories", "batch_size", "num_workers", "device", "result_dir", "quiet"),
    *("heatmap_size", "deterministic"),
)
BY_CHECKSUM = ("split", "references", "model", "pretrained")


@dataclass(frozen=True)
class Protocol:
    """One way of doing WinCLIP."""

    # "paper": 22 distinct templates; "public": 21 entries, one twice and two missing.
    templates: Templates
    # Write "metal nut" for "metal_nut" in prompts.
    class_words: bool
    # Give each prompt embedding length 1 before the ensemble is averaged.
    normalise_prompts: bool
    # The softmax temperature of equation 1.
    temperature: float
    # The tokens that WinCLIP+ compares: of the last block, after ("post_ln") or before ("pre_ln")
    # the tower's last normalisation, or of the block before it ("penultimate").
    patch_tokens: PatchTokens
    # Images that are not square: shorter side to the model's size and overlapping square tiles,
    # or squashed to one square.
    resize: Resize


PRESETS: dict[str, Protocol] = {
    "paper": Protocol("paper", True, True, 0.07, "post_ln", "tile"),
    "public": Protocol("public", False, False, 0.07, "pre_ln", "squash"),
}


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on."""

    dataset: Annotated[Literal["mvtec", "visa", "mpdd", "demo", "custom"], tyro.conf.Suppress]
    data_root: str = "auto"
    """Folder of the raw dataset; "auto": the one that its preparation script was given."""
    split: str = "auto"
    """Split CSV; "auto": the one that the preparation script wrote to datasets/splits/."""
    categories: tuple[str, ...] = ()
    """Categories to run; none given: all of the split."""
    shots: tuple[int, ...] = (0, 1, 2, 4)
    """Numbers of normal reference images; 0 is zero-shot."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the draws of references, for each number above 0."""
    references: str = "draw"
    """"draw", or a CSV of references in the form of a run's shots.csv."""
    model: str = "ViT-B-16-plus-240"
    """An open_clip model with a class token, or a model config (.json)."""
    pretrained: str = "laion400m_e31"
    """An open_clip tag, a weight file, a folder with one, or "random"."""
    protocol: Literal["paper", "public"] = "paper"
    """Preset for the six options below, each of which may be set by itself."""
    templates: Templates | None = None
    """The paper's 22 prompt templates, or the public list of 21."""
    class_words: bool | None = None
    """Write "metal nut" for metal_nut in prompts."""
    normalise_prompts: bool | None = None
    """Normalise each prompt embedding before averaging."""
    temperature: float | None = None
    """Temperature of the softmax over states."""
    patch_tokens: PatchTokens | None = None
    """Which patch tokens WinCLIP+ compares."""
    resize: Resize | None = None
    """Images that are not square: overlapping square tiles, or squashed."""
    scales: tuple[int, ...] = (2, 3)
    """Sizes of the windows, in patches."""
    extra_normal_states: tuple[str, ...] = ()
    """Further normal states, each "class: state", as in "pcb1: {} with neat soldering"."""
    extra_anomalous_states: tuple[str, ...] = ()
    """Further anomalous states, each "class: state", as in "pcb1: {} with bad soldering"."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of the vision tower's products; one that the device cannot do fast is refused."""
    device: str = "auto"
    """"auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N"."""
    deterministic: bool = False
    """On CUDA, use only what gives two runs the same bits; a CPU does so by itself."""
    batch_size: int = 8
    """Images decoded and sent to the device together."""
    num_workers: int = 2
    """Processes that decode images ahead of the encoder."""
    eval_size: int | Literal["source"] = 240
    """Shorter side of maps and masks in the metrics, in pixels, or each image's own size."""
    heatmaps: int | Literal["all", "none"] = "all"
    """Heatmaps to draw: all, none, or the first N of each defect."""
    heatmap_size: int = 256
    """Height of each picture in a heatmap panel, in pixels; 64 and up."""
    limit: int | None = None
    """Only the first N images of each defect (a trial; said in every output)."""
    result_dir: str = "auto"
    """Folder of the results; "auto": result/<dataset>, or result/<dataset>-random."""
    quiet: bool = False
    """Say nothing but errors; result_dir/run.log has the rest."""

    def __post_init__(self) -> None:
        """Refuse values that no run can have, in one sentence."""
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not fits(value, hint):
                wanted = str(hint).replace("typing.", "").replace("<class '", "").rstrip("'>")
                raise InputError(f"{name.upper()} = {value!r}: it must be of the type {wanted}")
            if isinstance(value, str) and not is_printable_name(value):
                raise InputError(
                    f"{name.upper()} = {value!a}: it is not UTF-8 or has control characters; "
                    "rename it"
                )
        for name, values in (("SHOTS", self.shots), ("SEEDS", self.seeds)):
            if not values or min(values) < 0 or len(set(values)) != len(values):
                raise InputError(f"{name} = {values}: give distinct whole numbers from 0 up")
        sizes = {"BATCH_SIZE": self.batch_size, "LIMIT": self.limit, "EVAL_SIZE": self.eval_size}
        for name, value in sizes.items():
            if isinstance(value, int) and value < 1:
                raise InputError(f"{name} = {value}: give a whole number from 1 up")
        if self.num_workers < 0:
            raise InputError(f"NUM_WORKERS = {self.num_workers}: give a whole number from 0 up")
        if isinstance(self.heatmaps, int) and self.heatmaps < 0:
            raise InputError(
                f'HEATMAPS = {self.heatmaps}: give "all", "none" or a number from 0 up'
            )
        if self.heatmap_size < 64:
            raise InputError(f"HEATMAP_SIZE = {self.heatmap_size}: give a number from 64 up")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise InputError(f"TEMPERATURE = {self.temperature}: give a number above 0")

    @property
    def method(self) -> Protocol:
        """The protocol: the preset with what is overridden."""
        preset = PRESETS[self.protocol]
        given = {field.name: getattr(self, field.name) for field in fields(Protocol)}
        return replace(
            preset, **{name: value for name, value in given.items() if value is not None}
        )

    @property
    def result_folder(self) -> Path:
        """Where results are written."""
        if self.result_dir == "auto":
            suffix = "-random" if self.pretrained == RANDOM else ""  # not to be taken for results
            return PROJECT / "result" / f"{self.dataset}{suffix}"
        return user_path(self.result_dir)

    def extra_states(self, category: str) -> tuple[list[str], list[str]]:
        """The further normal and anomalous states of one category."""
        normal, anomalous = map(
            split_states, (self.extra_normal_states, self.extra_anomalous_states)
        )
        return (
            [state for name, state in normal if name == category],
            [state for name, state in anomalous if name == category],
        )

    def named_categories(self) -> list[str]:
        """The categories that the settings name; each must be in the split."""
        extra = split_states((*self.extra_normal_states, *self.extra_anomalous_states))
        return [*self.categories, *(name for name, _ in extra)]

    def identity(self) -> dict:
        """The settings that results depend on: two runs that differ here must not be mixed."""
        left_out = {*FREE, *BY_CHECKSUM, "protocol"}
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return kept | asdict(self.method)


def fits(value: object, hint: object) -> bool:
    """Whether a value has the type of a setting.

    >>> fits((0, 1), tuple[int, ...]), fits(4, tuple[int, ...]), fits("big", int | Literal["all"])
    (True, False, False)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(one, arguments[0]) for one in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def split_states(entries: tuple[str, ...]) -> list[tuple[str, str]]:
    """Pairs of class and state from entries of the form "class: state"."""
    states = []
    for entry in entries:
        name, colon, state = (part.strip() for part in entry.partition(":"))
        if not colon or state.count("{}") != 1:
            raise InputError(
                f'EXTRA_..._STATES: "{entry}" is not of the form "class: state with one {{}}", as '
                'in "pcb1: {} with bad soldering"'
            )
        states.append((name, state))
    return states


def settings_from(constants: dict, dataset: str, kind: type[Settings] = Settings) -> Settings:
    """A runner's constants (its globals), with what the command line overrides, as a `kind`."""
    script = Path(constants["__file__"])
    given = {name.lower(): value for name, value in constants.items() if name.isupper()}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    known = {field.name for field in fields(kind)} - {"dataset"}
    for name in given.keys() - known:
        raise InputError(
            f"{script.name}: there is no setting {name.upper()}; known are "
            f"{', '.join(sorted(known)).upper()}"
        )
    return parse_options(kind(dataset, **given), constants["__doc__"], script)

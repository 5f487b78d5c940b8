"""The settings of an ablation, and those of the runs that encode its images."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from datasets.tiles import CropVariant
from utils.ablation.variants import SWITCHES, Switch
from utils.cli import default_text, spell
from utils.errors import InputError
from utils.experiment.options import (
    AUTO_FOLDER,
    DataOptions,
    MachineOptions,
    ModelOptions,
    NameOption,
)
from utils.experiment.settings import FolderSettings, Settings
from utils.files import PROJECT, user_path
from utils.option_types import describe_type, has_type

DEMO_MODEL = PROJECT / "models/demo_clip/demo-clip"  # .json and .safetensors


@dataclass(frozen=True)
class AblationOptions:
    """The variants and their evaluation."""

    multi_crops: Annotated[tuple[CropVariant, ...], default_text("none")] = ("five",)
    """Variants of multi-crop for the image score.
    The crops of "five" take 39 % more time to encode."""
    order: tuple[Switch, ...] = SWITCHES
    """The switches of the walk from the public protocol to the paper's, in this order.
    Those not given follow in the default order."""
    eval_size: int | Literal["source"] = 240
    """Shorter side of maps and masks in the pixel metrics, or "source": each image's own size."""


@dataclass(frozen=True)
class AblationSettings(MachineOptions, AblationOptions, ModelOptions, DataOptions, NameOption):
    """Everything that an ablation depends on."""

    dataset: Literal["mvtec", "visa", "mpdd", "demo", "folder"] = "demo"
    """The benchmark, as in run_winclip.py (mvtec), run_visa.py, run_mpdd.py, run_demo.py,
    which has a model of its own, and run_folder.py, which needs --name."""
    shots: tuple[int, ...] = (0, 1)
    seeds: tuple[int, ...] = (0, 1, 2)
    features_precision: Literal["fp16", "fp32"] = "fp32"
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    result_dir: Annotated[str, AUTO_FOLDER] = "auto"
    """Folder of the results.
    "auto": result/ablation/<dataset>, with -random appended for random weights."""

    def __post_init__(self) -> None:
        """Complete `order`; raise `InputError` for invalid values."""
        for name, entry in (("multi_crops", CropVariant), ("order", Switch)):
            value, hint = getattr(self, name), tuple[entry, ...]
            if not has_type(value, hint):
                raise InputError(f"{spell(name, value)}: expected {describe_type(hint)}")
        order = self.order
        if len(set(order)) < len(order):
            raise InputError(f"{spell('order', order)}: give each switch at most once")
        if self.name and self.dataset != "folder":
            name, dataset = spell("name", self.name), spell("dataset", self.dataset)
            raise InputError(f"{name} has no effect with {dataset}; remove it")
        rest = (switch for switch in SWITCHES if switch not in order)
        object.__setattr__(self, "order", (*order, *rest))
        self.run_settings("tile")  # checks the others

    def run_settings(self, resize: str) -> Settings:
        """Return the settings of the run that encodes all images with one value of `resize`.

        Raises `InputError` for invalid values.
        """
        kind = FolderSettings if self.dataset == "folder" else Settings
        names = {field.name for field in fields(kind)} & vars(self).keys()
        values = {name: getattr(self, name) for name in names}
        for name, suffix in (("model", ".json"), ("pretrained", ".safetensors")):
            if self.dataset == "demo" and values[name] == "auto":
                values[name] = f"{DEMO_MODEL}{suffix}"
        fixed = {"heatmaps": "none", "features": "keep", "resize": resize}
        if resize == "tile":  # crops depart from `paper`, which has it
            fixed["kept_crops"] = self.multi_crops
        settings = kind(**values | fixed | {"result_dir": "auto"})
        return replace(settings, result_dir=str(self.result_folder(settings) / resize))

    def result_folder(self, settings: Settings) -> Path:
        """Return the folder of the results."""
        if self.result_dir != "auto":
            return user_path(self.result_dir)
        return PROJECT / "result" / "ablation" / settings.result_folder.name

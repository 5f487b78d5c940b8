"""The settings of an ablation, and those of the runs that encode its images."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from datasets.tiles import CropVariant
from utils.ablation.variants import SWITCHES, Switch
from utils.errors import InputError
from utils.experiment.settings import FolderSettings, Settings
from utils.experiment.types import describe_type, has_type
from utils.files import PROJECT, user_path

DEMO_MODEL = PROJECT / "models/demo_clip/demo-clip"  # .json and .safetensors
# Settings that an ablation hands on to its runs under the same names.
SHARED = (
    *("data_root", "split", "categories", "shots", "seeds", "references", "limit", "precision"),
    *("device", "deterministic", "batch_size", "num_workers", "eval_size", "quiet"),
    "features_precision",
)


@dataclass(frozen=True)
class AblationSettings:
    """Everything that an ablation depends on; the strings below the fields are the help texts."""

    dataset: Literal["mvtec", "visa", "mpdd", "demo", "folder"] = "demo"
    """The benchmark: the one of run_winclip.py, run_visa.py, run_mpdd.py, run_demo.py or
    run_folder.py."""
    name: str = ""
    """Name of your own benchmark, if the dataset is "folder"."""
    data_root: str = "auto"
    """Folder of the raw dataset; "auto": the folder that its preparation script was given."""
    split: str = "auto"
    """Split CSV; "auto": the one that the preparation script wrote to datasets/splits/."""
    categories: tuple[str, ...] = ()
    """Categories to run; none given: all categories of the split."""
    shots: tuple[int, ...] = (0, 1)
    """Numbers of normal reference images; 0 is zero-shot."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds for drawing reference images, each used for every number of shots above 0."""
    references: str = "draw"
    """"draw", or a CSV of reference images in the format of a run's shots.csv."""
    limit: int | None = None
    """Use only the first N good test images and the first N of each defect, for a trial."""
    multi_crops: tuple[CropVariant, ...] = ("five",)
    """Variants of multi-crop for the image score; those of "five" take 39 % more time to encode."""
    order: tuple[Switch, ...] = SWITCHES
    """The switches of the walk from the public protocol to the paper's, in this order; those not
    given follow in the default order."""
    model: str = "auto"
    """An open_clip model, or a model config (.json); "auto": the paper's, or the demo's."""
    pretrained: str = "auto"
    """An open_clip tag, a weight file, a folder that contains one, or "random"; "auto": the paper's
    weights, or the demo's."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Precision of the image encoder; refused if the device does not support it."""
    device: str = "auto"
    """"auto" (CUDA if available), "cpu", "cuda" or "cuda:N"."""
    deterministic: bool = False
    """Make CUDA runs bitwise reproducible, but slower; CPU runs are always reproducible."""
    batch_size: int = 8
    """Images decoded and sent to the device together; 1 or more."""
    num_workers: int | Literal["auto"] = "auto"
    """Processes that decode images, and as many that compute metrics; "auto": one per core, at most
    8; 0: do all in the main process."""
    features_precision: Literal["fp16", "fp32"] = "fp32"
    """Precision in which features are kept, and scored; fp32 takes twice the space."""
    eval_size: int | Literal["source"] = 240
    """Shorter side of maps and masks in the pixel metrics, or "source": each image's own size."""
    result_dir: str = "auto"
    """Folder of the results; "auto": result/ablation/<dataset>, with -random appended for random
    weights."""
    quiet: bool = False
    """Print nothing but errors; run.log in the result folder has the rest."""

    def __post_init__(self) -> None:
        """Complete `order`; raise `InputError` for invalid values."""
        if not has_type(self.multi_crops, hint := tuple[CropVariant, ...]):
            raise InputError(f"MULTI_CROPS = {self.multi_crops!r}: expected {describe_type(hint)}")
        order = self.order
        if not has_type(order, tuple[Switch, ...]) or len(set(order)) < len(order):
            raise InputError(
                f"ORDER = {order!r}: expected a tuple of {', '.join(SWITCHES)}, each at most once"
            )
        rest = (switch for switch in SWITCHES if switch not in order)
        object.__setattr__(self, "order", (*order, *rest))
        self.run_settings("tile")  # checks the others

    def run_settings(self, resize: str) -> Settings:
        """Return the settings of the run that encodes all images with one value of `resize`.

        Raises `InputError` for invalid values.
        """
        values = {name: getattr(self, name) for name in SHARED}
        defaults = {field.name: field.default for field in fields(Settings)}
        demo = self.dataset == "demo"
        model, weights = (f"{DEMO_MODEL}{suffix}" for suffix in (".json", ".safetensors"))
        given = {"model": model if demo else defaults["model"]}
        given["pretrained"] = weights if demo else defaults["pretrained"]
        for name in given:
            if getattr(self, name) != "auto":
                given[name] = getattr(self, name)
        kind = FolderSettings if self.dataset == "folder" else Settings
        named = {"name": self.name} if self.dataset == "folder" else {}
        fixed = {"heatmaps": "none", "features": "keep", "resize": resize}
        if resize == "tile":  # crops depart from `paper`, which has it
            fixed["kept_crops"] = self.multi_crops
        settings = kind(self.dataset, **values, **given, **named, **fixed)
        return replace(settings, result_dir=str(self.result_folder(settings) / resize))

    def result_folder(self, settings: Settings) -> Path:
        """Return the folder of the results."""
        if self.result_dir != "auto":
            return user_path(self.result_dir)
        return PROJECT / "result" / "ablation" / settings.result_folder.name

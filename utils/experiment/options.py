"""The options of a run; the strings below the fields are the help texts.

The command line keeps their line breaks, so each line is a sentence or a clause. Options that an
ablation shares are in classes of their own.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from datasets.images import EvalSize
from datasets.tiles import CropVariant, MultiCrop, Resize
from models.clip.features import PatchTokens
from models.methods import MethodName
from models.prompts import Templates
from models.winclip import CropAverage
from utils.cli import default_text

BOOLEANS = (True, False)
AUTO_FOLDER = tyro.conf.arg(metavar="auto|FOLDER")


def by_protocol(values: tuple) -> object:
    """Describe an option that --protocol sets, unless one of `values` is given."""
    return default_text("the protocol's", f"{{{','.join(map(str, values))}}}")


@dataclass(frozen=True)
class NameOption:
    """The name of a user's own benchmark."""

    name: Annotated[str, default_text("required")] = ""
    """Name of your own benchmark, as given to datasets/folder.py."""


@dataclass(frozen=True)
class DataOptions:
    """The images, and the references that are drawn."""

    dataset: Annotated[
        Literal["mvtec", "visa", "mpdd", "demo", "folder", "custom"], tyro.conf.Suppress
    ]
    data_root: Annotated[str, AUTO_FOLDER] = "auto"
    """Folder of the dataset; "auto": the one that was prepared."""
    split: Annotated[str, tyro.conf.arg(metavar="auto|CSV")] = "auto"
    """Split CSV; "auto": the one that the preparation script wrote to datasets/splits/."""
    categories: Annotated[tuple[str, ...], default_text("all")] = ()
    """Categories to run."""
    shots: tuple[int, ...] = (0, 1, 2, 4)
    """Numbers of normal reference images; 0 is zero-shot."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds for drawing reference images, each used for every number of shots above 0."""
    references: Annotated[str, tyro.conf.arg(metavar="draw|CSV")] = "draw"
    """"draw", or a CSV of reference images in the format of a run's shots.csv."""
    limit: Annotated[int | None, default_text("all images", "INT")] = None
    """Use only the first N good test images and the first N of each defect, for a trial."""


@dataclass(frozen=True)
class MethodOptions:
    """The method."""

    method: MethodName = "winclip"
    """WinCLIP with WinCLIP+, AnomalyCLIP (zero-shot only) or InCTRL (needs references, no maps).
    The last two need --checkpoint."""
    checkpoint: Annotated[str, default_text("none", "random|FILE")] = ""
    """File that the authors of AnomalyCLIP or InCTRL have released; "random" for a trial."""


@dataclass(frozen=True)
class ModelOptions:
    """The CLIP model."""

    model: Annotated[str, tyro.conf.arg(metavar="auto|NAME|JSON")] = "auto"
    """An open_clip model with a class token, or a model config (.json); "auto": the method's."""
    pretrained: Annotated[str, tyro.conf.arg(metavar="auto|random|TAG|FILE|FOLDER")] = "auto"
    """An open_clip tag, a weight file, a folder that contains one, or "random";
    "auto": the method's."""


@dataclass(frozen=True)
class ScoringOptions:
    """What is computed; an ablation has options of its own."""

    protocol: Literal["paper", "public"] = "paper"
    """Follow the paper, or the closest public code (docs/protocol.md).
    Sets the next eight options, each of which can also be given."""
    templates: Annotated[Templates | None, by_protocol(get_args(Templates))] = None
    """The paper's 22 prompt templates, or the public list of 21."""
    class_words: Annotated[bool | None, by_protocol(BOOLEANS)] = None
    """Write "metal nut" instead of "metal_nut" in prompts."""
    normalise_prompts: Annotated[bool | None, by_protocol(BOOLEANS)] = None
    """Normalise each prompt embedding before averaging."""
    temperature: Annotated[float | None, default_text("the protocol's", "FLOAT")] = None
    """Temperature of the softmax over states."""
    patch_tokens: Annotated[PatchTokens | None, by_protocol(get_args(PatchTokens))] = None
    """Patch tokens that WinCLIP+ compares:
    of the last block, after or before ln_post, or of the penultimate block."""
    resize: Annotated[Resize | None, by_protocol(get_args(Resize))] = None
    """Cut images that are not square into overlapping square tiles, squash them to a square,
    or crop their centre (only with --no-maps)."""
    multi_crop: Annotated[MultiCrop | None, by_protocol(get_args(MultiCrop))] = None
    """Also encode crops of each image, whose mean gives the zero-shot image score.
    A hypothesis about a step that the paper does not define."""
    multi_crop_average: Annotated[CropAverage | None, by_protocol(get_args(CropAverage))] = None
    """Average the embeddings of the crops, or their scores."""
    kept_crops: Annotated[tuple[CropVariant, ...], tyro.conf.Suppress] = ()
    """Further variants of MULTI_CROP whose crops an ablation keeps."""
    tile: int = 0
    """Cut images into overlapping tiles of this many pixels, for small defects on large images.
    The image score is the highest of its tiles; 0: cut as --resize says."""
    scales: tuple[int, ...] = (2, 3)
    """Window sizes, in patches."""
    extra_normal_states: Annotated[tuple[str, ...], default_text("none")] = ()
    """Additional normal states, each "category: state", such as "pcb1: {} with neat soldering"."""
    extra_anomalous_states: Annotated[tuple[str, ...], default_text("none")] = ()
    """Additional anomalous states, each "category: state", such as "pcb1: {} with rust"."""
    maps: bool = True
    """Compute anomaly maps. Without them, WinCLIP encodes no windows: ten times as fast.
    Zero-shot image scores stay the same; WinCLIP+ compares patch tokens alone."""
    heatmaps: int | Literal["all", "none"] = "all"
    """Heatmaps to draw: all, none, or the first N of each defect and of the good images."""
    heatmap_size: int = 256
    """Height of each image in a heatmap, in pixels; 64 or more."""
    coco: bool = False
    """Also write defects_coco.json: the detected defects in COCO's format."""
    eval_size: tuple[EvalSize, ...] = (240,)
    """Shorter side of maps and masks in the pixel metrics, or "source": each image's own size.
    Further sizes add their metrics, such as pixel_auroc@400; all else uses the first."""
    extra_metrics: bool = False
    """Also compute AUPRO up to a false positive rate of 0.05, the maximal IoU,
    and the mean of the seven metrics."""
    features: Annotated[str, tyro.conf.arg(metavar="auto|keep|off|FOLDER")] = "auto"
    """"auto": use kept features, if any; "keep": also write them, to score other prompts, shots
    or seeds without encoding again; "off": neither; or a result folder whose features to use."""


@dataclass(frozen=True)
class MachineOptions:
    """The precision of kept features, the machine, and the result folder."""

    features_precision: Literal["fp16", "fp32"] = "fp16"
    """Precision in which features are kept and scored; fp32 takes twice the space."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """"auto" (CUDA if available), "cpu", "cuda" or "cuda:N"."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "int8"] = "fp32"
    """Precision of the image encoder; refused if the device does not support it."""
    deterministic: bool = False
    """Make CUDA runs bitwise reproducible, but slower; CPU runs are always reproducible."""
    batch_size: int = 8
    """Images decoded and sent to the device together; 1 or more."""
    num_workers: int | Literal["auto"] = "auto"
    """Processes that decode images; on a GPU, as many again write results, on a CPU at most one.
    "auto": one per core, at most 8; 0: do all in the main process."""
    result_dir: Annotated[str, AUTO_FOLDER] = "auto"
    """Folder of the results.
    "auto": result/<dataset>, with the method, -no-maps and -random appended where they apply."""
    quiet: bool = False
    """Print nothing but errors; run.log in the result folder has the rest."""


@dataclass(frozen=True)
class RunOptions(MachineOptions, ScoringOptions, ModelOptions, MethodOptions, DataOptions):
    """All options of a run. --help lists those of the last class first."""

    @property
    def few_shot(self) -> bool:
        """Return whether the run has reference images."""
        return self.shots != (0,)

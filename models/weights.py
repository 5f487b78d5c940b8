"""From MODEL and PRETRAINED to a CLIP with its weights, and to the facts that say which they are.

PRETRAINED is an open_clip tag, a local file (.pt, .bin, .safetensors), a folder of a model
repository, or "random". Pickled code in a weight file is never executed.
"""

import json
import logging
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import nn

from utils.errors import InputError, describe_error
from utils.files import sha256_of, user_path

RANDOM = "random"
RANDOM_SEED = 0
DEMO = "demo weights, trained on rendered pictures"
# The files of the paper's backbone, ViT-B-16-plus-240 trained on LAION-400M. Both open_clip tags
# (laion400m_e31 and laion400m_e32) load the e31 file of the hub: only the sha256 says which.
KNOWN_WEIGHTS = {
    "8fb26589b9a8bab2e7a683d280e48df89b8e742f3a82132707282620b36facba": "LAION-400M, epoch 31",
    "699c4b843885d82733517f36f0911d7e1b360bcc1314dda81d8c56c76fe9524d": "LAION-400M, epoch 32",
    "f65b63daa30d38e9c4afe87ebd40140cee700cf0a1091711248f512f48706840": "LAION-400M, epoch 31",
    "fa8eec9aff58e9215b9b44a977038179712694d3fc3a73eba62546bcff13deb3": "LAION-400M, epoch 31",
    "91f8e267606a68b5ff3029e4bc74a270c9bb2dd0c01c03734616deddfefe328d": DEMO,
}
PAPER_MODEL = "ViT-B-16-plus-240"
PAPER_WEIGHTS = (
    "the paper's weights are open_clip_model.safetensors (834 MB, sha256 "
    "f65b63daa30d38e9c4afe87ebd40140cee700cf0a1091711248f512f48706840) in the hub repository "
    "timm/vit_base_patch16_plus_clip_240.laion400m_e31; fetch that file by hand, or set "
    "HF_ENDPOINT to a mirror, and give its path as PRETRAINED"
)
# Looked for in a folder, in this order.
FOLDER_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
HUB_CONFIG = "open_clip_config.json"  # beside the weights in a folder of the hub
CONFIG_KEYS = ("embed_dim", "vision_cfg", "text_cfg")
# What open_clip raises on a config with impossible numbers, or that needs what is not installed.
UNBUILDABLE = (
    *(ImportError, OSError, RuntimeError, ArithmeticError, AssertionError),
    *(AttributeError, LookupError, TypeError, ValueError),
)
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class Weights:
    """Which weights a model has."""

    pretrained: str  # as given
    sha256: str  # of the file; "" for random weights
    description: str  # in words

    @property
    def random(self) -> bool:
        """Whether they are random: no accuracy may be claimed from them."""
        return self.pretrained == RANDOM

    @property
    def demo(self) -> bool:
        """Whether they are the demo's: they know rendered pictures only."""
        return self.description.startswith(DEMO)


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP, its tokenizer, how its images are normalised, and which weights it has."""

    model: nn.Module
    tokenizer: open_clip.SimpleTokenizer
    image_size: int  # pixels of the square input's side
    mean: tuple[float, float, float]  # per RGB channel, of pixels in [0, 1]
    std: tuple[float, float, float]
    quick_gelu: bool  # whether the towers' GELU is OpenAI's approximation
    weights: Weights


def load_clip(model_name: str, pretrained: str) -> LoadedClip:
    """Build an open_clip model and load its weights, in float32 on the CPU.

    `model_name` is open_clip's, or the path of a model config (.json). Everything that is missing,
    damaged or of another architecture is an `InputError`.
    """
    name = register_config(model_name)
    tag = open_clip.get_pretrained_cfg(name, pretrained) or {}
    file = None if pretrained == RANDOM else find_file(name, pretrained, tag)
    # How images are normalised, and the GELU, are no part of a weight file.
    described = tag or (described_beside(file) if file else {})
    quick_gelu = bool(
        described.get("quick_gelu") or open_clip.get_model_config(name).get("quick_gelu")
    )
    try:
        model = create_model(name, quick_gelu=quick_gelu)
        tokenizer = open_clip.get_tokenizer(name)
    except UNBUILDABLE as error:
        raise InputError(
            f'MODEL: open_clip cannot build "{model_name}" here ({describe_error(error)}); choose '
            f'another, such as "{PAPER_MODEL}"'
        ) from error
    if file is None:
        weights = Weights(RANDOM, "", f"random weights (seed {RANDOM_SEED})")
    else:
        load_file(model, file, name)
        digest = sha256_of(file)
        known = KNOWN_WEIGHTS.get(digest, "weights with a checksum not known here")
        weights = Weights(pretrained, digest, f"{known} ({file.name})")
    side = model.visual.image_size
    if isinstance(side, tuple):
        side = require_square(side, name)
    mean = described.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = described.get("std") or open_clip.OPENAI_DATASET_STD
    return LoadedClip(model, tokenizer, side, tuple(mean), tuple(std), quick_gelu, weights)


def register_config(model_name: str) -> str:
    """The name under which open_clip knows the model; a config file is made known to it first."""
    if model_name.endswith(".json"):
        path = user_path(model_name)
        check_config(path)
        open_clip.add_model_config(path)
        model_name = path.stem
    if model_name not in open_clip.list_models():
        raise InputError(
            f'MODEL: open_clip has no model "{model_name}"; the paper\'s is "{PAPER_MODEL}", '
            "and open_clip.list_models() lists all"
        )
    return model_name


def check_config(path: Path) -> None:
    """Refuse a model config that open_clip could not build a model from."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"MODEL: the model config {path} cannot be read ({describe_error(error)})"
        ) from error
    if not isinstance(config, dict):
        raise InputError(f"MODEL: {path} is no model config; see those of open_clip")
    missing = [key for key in CONFIG_KEYS if key not in config]
    if missing:
        raise InputError(
            f"MODEL: the model config {path} has no {', '.join(missing)}; see those of open_clip"
        )


def find_file(name: str, pretrained: str, tag: dict) -> Path:
    """The local file of the weights; a tag's file is fetched by open_clip if it is not there."""
    if tag:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry
        try:
            return Path(open_clip.download_pretrained(tag))
        except Exception as error:  # the hub's client raises many kinds, all mean "not to be had"
            raise InputError(
                f'PRETRAINED = "{pretrained}": the weights of {name} could not be fetched '
                f"({type(error).__name__}: {describe_error(error)}); {where_to_get(name)}"
            ) from error
    path = user_path(pretrained)
    if path.is_dir():
        found = [path / file for file in FOLDER_FILES if (path / file).is_file()]
        if not found:
            raise InputError(
                f"PRETRAINED: the folder {path} has none of {', '.join(FOLDER_FILES)}; "
                f"{where_to_get(name)}"
            )
        return found[0]
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(
                f"PRETRAINED: {path} does not end in one of {', '.join(SUFFIXES)}, the weight "
                "files that open_clip reads"
            )
        return path
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
    raise InputError(
        f'PRETRAINED = "{pretrained}" is no file, no folder and no tag of {name} (its tags: '
        f"{tags}); {where_to_get(name)}"
    )


def where_to_get(name: str) -> str:
    """What to do where the weights of the model are not to be had."""
    return PAPER_WEIGHTS if name == PAPER_MODEL else "give a file, or a folder that has one"


def described_beside(file: Path) -> dict:
    """What the hub's open_clip_config.json says of the weights beside it; {} where there is none.

    `mean` and `std` of the images' channels, and `quick_gelu`, as far as it has them.
    """
    path = file.parent / HUB_CONFIG
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        told = config.get("preprocess_cfg", {})
        found = {key: [float(v) for v in told[key]] for key in ("mean", "std") if key in told}
        if any(len(values) != 3 for values in found.values()):
            raise ValueError("mean and std have other than 3 numbers")
        return found | {"quick_gelu": bool(config.get("model_cfg", {}).get("quick_gelu"))}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"PRETRAINED: {path}, which says how images are normalised for {file.name}, cannot be "
            f"read ({describe_error(error)}); fetch it again, or move the weights out of that folder"
        ) from error


def create_model(name: str, quick_gelu: bool) -> nn.Module:
    """An open_clip model with seeded random weights; the caller's random state is kept."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # open_clip warns that no weights were loaded yet
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return open_clip.create_model(name, force_quick_gelu=quick_gelu)
    finally:
        log.setLevel(level)


def load_file(model: nn.Module, file: Path, name: str) -> None:
    """Read a weight file into the model, without executing code that it may contain."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says it in one sentence
            if file.suffix != ".safetensors":
                # Where this raises a TypeError, open_clip would read again, code and all.
                torch.load(file, map_location="meta", weights_only=True)
            open_clip.load_checkpoint(model, str(file), weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"PRETRAINED: {file} holds pickled code, or is no weight file: it was not executed; "
            "use a .safetensors file, or a state_dict saved with torch.save"
        ) from error
    except Exception as error:  # readers raise almost anything on a damaged or foreign file
        raise InputError(
            f"PRETRAINED: {file} does not load into {name} ({describe_error(error)}): it is damaged or "
            "of another architecture; check its sha256, and that MODEL names its architecture"
        ) from error


def require_square(size: tuple[int, int], name: str) -> int:
    """The side of a square input; tiles are square, so another shape is an `InputError`."""
    if size[0] != size[1]:
        raise InputError(f"MODEL: {name} takes {size[0]} x {size[1]} images; tiles are square")
    return size[0]

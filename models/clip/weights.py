"""Load an open_clip model and record which weights it has.

PRETRAINED is an open_clip tag, a local file (.pt, .pth, .bin, .safetensors), a folder of a model
repository, "random", or "checkpoint" for a method whose checkpoint has all weights. Pickled code in
a weight file is never executed.
"""

import json
import logging
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import nn

from utils.cli import label, spell
from utils.errors import InputError, describe_error
from utils.files import sha256_of, user_path

CONFIG_KEYS = {"embed_dim", "vision_cfg", "text_cfg"}  # of a model config
RANDOM = "random"
IN_CHECKPOINT = "checkpoint"
RANDOM_SEED = 0
DEMO = "demo weights, trained on rendered images"
# The files of the paper's backbone, ViT-B-16-plus-240 trained on LAION-400M. Both open_clip tags,
# laion400m_e31 and laion400m_e32, download the e31 file; only the sha256 identifies the epoch.
KNOWN_WEIGHTS = {
    "8fb26589b9a8bab2e7a683d280e48df89b8e742f3a82132707282620b36facba": "LAION-400M, epoch 31",
    "699c4b843885d82733517f36f0911d7e1b360bcc1314dda81d8c56c76fe9524d": "LAION-400M, epoch 32",
    "f65b63daa30d38e9c4afe87ebd40140cee700cf0a1091711248f512f48706840": "LAION-400M, epoch 31",
    "fa8eec9aff58e9215b9b44a977038179712694d3fc3a73eba62546bcff13deb3": "LAION-400M, epoch 31",
    "91f8e267606a68b5ff3029e4bc74a270c9bb2dd0c01c03734616deddfefe328d": DEMO,
}
PAPER_MODEL = "ViT-B-16-plus-240"
PAPER_WEIGHTS_ADVICE = (
    "the paper's weights are open_clip_model.safetensors (834 MB, sha256 "
    "f65b63daa30d38e9c4afe87ebd40140cee700cf0a1091711248f512f48706840) in the hub repository "
    "timm/vit_base_patch16_plus_clip_240.laion400m_e31; download that file and give its path as "
    "--pretrained, or set HF_ENDPOINT to a mirror"
)
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
# Weight files of a folder, in order of preference.
FOLDER_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")


@dataclass(frozen=True)
class Weights:
    """The identity of a model's weights."""

    pretrained: str  # as given
    sha256: str  # of the file; "" for random weights
    description: str  # human-readable

    @property
    def random(self) -> bool:
        """Return True for random weights: their results say nothing about accuracy."""
        return self.pretrained == RANDOM

    @property
    def demo(self) -> bool:
        """Return True for the demo's weights, which know rendered images only."""
        return self.description.startswith(DEMO)


@dataclass(frozen=True)
class LoadedClip:
    """An open_clip model with its tokenizer, the normalisation of its images and its weights."""

    model: nn.Module  # its `visual` is None if only the text tower has been loaded
    tokenizer: open_clip.SimpleTokenizer
    image_size: int  # side of the square input, in pixels
    mean: tuple[float, float, float]  # per RGB channel, of pixels in [0, 1]
    std: tuple[float, float, float]
    quick_gelu: bool  # True if the towers use OpenAI's approximation of GELU
    weights: Weights


@dataclass(frozen=True)
class ClipSource:
    """A model and its weight file, located but not loaded, with what identifies them."""

    model: str  # as given
    name: str  # open_clip's
    file: Path | None  # None for random weights, and for those in a checkpoint
    mean: tuple[float, float, float]  # as in `LoadedClip`
    std: tuple[float, float, float]
    quick_gelu: bool
    weights: Weights


def load_clip(model_name: str, pretrained: str) -> LoadedClip:
    """Build an open_clip model and load its weights, as `locate_clip` and `build_clip` do."""
    return build_clip(locate_clip(model_name, pretrained))


def locate_clip(model_name: str, pretrained: str) -> ClipSource:
    """Find a model and its weights, and compute the checksum of the file.

    `model_name` is open_clip's, or the path of a model config (.json). Raises InputError if the
    model or its weights are missing.
    """
    name = register_config(model_name)
    tag_config = open_clip.get_pretrained_cfg(name, pretrained) or {}
    without_file = pretrained in (RANDOM, IN_CHECKPOINT)
    file = None if without_file else locate_weights(name, pretrained, tag_config)
    # A weight file holds neither the normalisation of images nor the kind of GELU.
    options = tag_config or (read_hub_config(file) if file else {})
    quick_gelu = any(c.get("quick_gelu") for c in (options, open_clip.get_model_config(name)))
    weights = identify_weights(pretrained, file)
    mean = options.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = options.get("std") or open_clip.OPENAI_DATASET_STD
    return ClipSource(model_name, name, file, tuple(mean), tuple(std), quick_gelu, weights)


def identify_weights(pretrained: str, file: Path | None) -> Weights:
    """Return what PRETRAINED stands for; `file` is its weight file, if it has one."""
    if file:
        digest = sha256_of(file)
        known = KNOWN_WEIGHTS.get(digest, "weights with an unknown checksum")
        return Weights(pretrained, digest, f"{known} ({file.name})")
    if pretrained == IN_CHECKPOINT:
        return Weights(pretrained, "", "those of the checkpoint")
    return Weights(RANDOM, "", f"random weights (seed {RANDOM_SEED})")


def build_clip(source: ClipSource, text_only: bool = False) -> LoadedClip:
    """Build a model and load its weights: float32, on the CPU.

    With `text_only`, `model.visual` is None. Raises InputError if the weights are damaged, of
    another architecture, or not for square images.
    """
    name = source.name
    try:
        model = create_model(name, source.quick_gelu, one_block=text_only and bool(source.file))
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # many types: impossible values, missing packages
        raise InputError(
            f'{label("model")}: open_clip cannot build "{source.model}" '
            f'({describe_error(error)}); choose another model, such as "{PAPER_MODEL}"'
        ) from error
    size = model.visual.image_size
    if text_only:
        model.visual = None
    if source.file:
        load_file(model, source.file, name)
    height, width = size if isinstance(size, tuple) else (size, size)
    if height != width:
        raise InputError(
            f"{label('model')}: {name} takes {height} x {width} images; choose a square input"
        )
    return LoadedClip(
        model, tokenizer, height, source.mean, source.std, source.quick_gelu, source.weights
    )


def check_names(model_name: str, pretrained: str) -> None:
    """Raise InputError for a model or weights that do not exist, without downloading anything."""
    name = register_config(model_name)
    without_file = pretrained in (RANDOM, IN_CHECKPOINT)
    if not without_file and not open_clip.get_pretrained_cfg(name, pretrained):
        locate_weights(name, pretrained, {})


def register_config(model_name: str) -> str:
    """Return open_clip's name of a model; register a config file (.json) under its stem first.

    Raises InputError for an unknown model and for a config that is unreadable or incomplete.
    """
    if model_name.endswith(".json"):
        path = user_path(model_name)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(config, dict) or not config.keys() >= CONFIG_KEYS:
                raise ValueError(f"expected an object with {', '.join(sorted(CONFIG_KEYS))}")
        except (OSError, ValueError, RecursionError) as error:
            reason = describe_error(error)
            raise InputError(
                f"{label('model')}: cannot read the model config {path} ({reason}); give a config "
                "file or a model of open_clip"
            ) from error
        open_clip.add_model_config(path)
        model_name = path.stem
    if model_name not in open_clip.list_models():
        raise InputError(
            f'{label("model")}: open_clip has no model "{model_name}"; the paper\'s is '
            f'"{PAPER_MODEL}", and open_clip.list_models() lists all'
        )
    return model_name


def locate_weights(name: str, pretrained: str, tag_config: dict) -> Path:
    """Return the local weight file; download it for a tag if necessary.

    `tag_config` is open_clip's configuration of the tag, {} if `pretrained` is not a tag. Raises
    InputError if there is no such file, folder or tag, or if the download fails.
    """
    advice = (
        PAPER_WEIGHTS_ADVICE if name == PAPER_MODEL else "give a weight file, or a folder with one"
    )
    if tag_config:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry
        try:
            return Path(open_clip.download_pretrained(tag_config))
        except Exception as error:  # the hub's client raises many types
            problem = f"the download failed ({type(error).__name__}: {describe_error(error)})"
            raise InputError(f"{spell('pretrained', pretrained)}: {problem}; {advice}") from error
    path = user_path(pretrained)
    if path.is_dir():
        for file in FOLDER_FILES:
            if (path / file).is_file():
                return path / file
        names = ", ".join(FOLDER_FILES)
        raise InputError(f"{label('pretrained')}: the folder {path} has none of {names}; {advice}")
    if not path.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        if not tags:
            # The method's default, which the user has not given, is a tag of another model.
            is_tag = any(tag == pretrained for _, tag in open_clip.list_pretrained())
            problem = f"{spell('pretrained', pretrained)} is not a file or a folder; "
            raise InputError(
                f"{'' if is_tag else problem}open_clip has no weights of {name}; add --pretrained "
                "with its weight file, or a folder with one"
            )
        problem = f"is not a file, a folder or a tag of {name} (its tags: {tags})"
        raise InputError(f"{spell('pretrained', pretrained)} {problem}; {advice}")
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{label('pretrained')}: {path} does not end in one of {', '.join(SUFFIXES)}; give a "
            "weight file that does"
        )
    return path


def read_hub_config(file: Path) -> dict:
    """Read `mean`, `std` and `quick_gelu` from a hub config beside a weight file, if there is one.

    Raises InputError for a damaged config.
    """
    path = file.parent / "open_clip_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        preprocess = config.get("preprocess_cfg", {})
        options = {k: [*map(float, preprocess[k])] for k in ("mean", "std") if k in preprocess}
        if any(len(values) != 3 for values in options.values()):
            raise ValueError("mean and std need 3 numbers each")
        return options | {"quick_gelu": bool(config.get("model_cfg", {}).get("quick_gelu"))}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        problem = f"cannot read {path} ({describe_error(error)}), which defines the normalisation"
        raise InputError(
            f"{label('pretrained')}: {problem}; replace it, or move the weight file"
        ) from error


def create_model(name: str, quick_gelu: bool, one_block: bool = False) -> nn.Module:
    """Create an open_clip model with seeded random weights; torch's random state is unchanged.

    With `one_block`, the vision tower has a single block, for a model whose tower is not used.
    """
    options = {}
    if one_block:
        options["vision_cfg"] = open_clip.get_model_config(name)["vision_cfg"] | {"layers": 1}
    logging.disable(logging.WARNING)  # open_clip warns that no weights have been loaded yet
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return open_clip.create_model(name, force_quick_gelu=quick_gelu, **options).eval()
    finally:
        logging.disable(logging.NOTSET)


def load_file(model: nn.Module, file: Path, name: str) -> None:
    """Read a weight file into a model, without executing code that the file may contain.

    A model without a vision tower takes only the other weights.
    Raises InputError if the file holds pickled code, is damaged or does not fit the model.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the InputError below reports the problem
            if file.suffix != ".safetensors":
                check_zip(file)
                # Check first: after a TypeError, open_clip retries and would execute code.
                torch.load(file, map_location="meta", weights_only=True)
            strict = model.visual is not None
            keys = open_clip.load_checkpoint(model, str(file), strict=strict, weights_only=True)
        foreign = [key for key in keys.unexpected_keys if not key.startswith("visual.")]
        if foreign or keys.missing_keys:
            raise ValueError(f"missing {keys.missing_keys}, unexpected {foreign}")
    except Exception as error:  # readers raise many types for damaged files
        pickled = isinstance(error, pickle.UnpicklingError)
        reason = (
            "it is damaged, or contains pickled code, which is never executed"
            if pickled
            else describe_error(error)
        )
        raise InputError(
            f"{label('pretrained')}: {file} does not load into {name} ({reason}); check its "
            f"sha256, and that {label('model')} names its architecture, or use a .safetensors file"
        ) from error


def check_zip(file: Path) -> None:
    """Raise ValueError unless a file for `torch.load` is a zip archive.

    torch < 2.6 executes the code in its older, tar-based files even with `weights_only`
    (CVE-2025-32434).
    """
    with file.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is damaged, or not a zip archive, which torch.save writes")


def describe_model(model_name: str, clip: ClipSource | LoadedClip) -> dict:
    """Return what identifies a model, given as for `locate_clip`, in a fingerprint."""
    is_config = model_name.endswith(".json")
    return {
        "model": sha256_of(Path(model_name)) if is_config else model_name,
        "weights": clip.weights.sha256 or clip.weights.description,
        "normalisation": [clip.mean, clip.std],
        "quick_gelu": clip.quick_gelu,
    }

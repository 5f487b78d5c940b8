"""The trained heads of InCTRL, from a checkpoint that its authors released or at random.

A released file holds the whole model: the heads, and the backbone that they were trained with.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models.clip.checkpoints import check_tensors, find_checkpoint, read_checkpoint
from models.clip.towers import unsupported_tower
from models.clip.weights import RANDOM, RANDOM_SEED, LoadedClip, Weights
from utils.cli import label
from utils.errors import InputError

BLOCKS = (7, 9, 11)  # whose patch tokens are compared, counted from 1
SHOTS = ("2", "4", "8")  # of the released files, and the names of folders that say so
DATASETS = ("mvtec", "visa", "mpdd")  # that a folder's name can state as the training data
TRAINED_ON = "trained-on-"


@dataclass(frozen=True)
class TrainedHeads:
    """The layers that turn residuals into scores."""

    heads: nn.ModuleDict  # adapter, diff_head_ref and diff_head
    checkpoint: Weights
    notes: tuple[str, ...] = ()  # for every output


def read_heads(clip: LoadedClip, checkpoint: str, dataset: str) -> TrainedHeads:
    """Load a released file, or "random": seeded random heads, and the backbone of `clip`.

    A file replaces the backbone of `clip`, which must be in float32. Raises InputError for a file
    that is damaged, has other tensors, or was trained on `dataset`.
    """
    heads = build_heads(clip)
    if checkpoint == RANDOM:
        return TrainedHeads(heads, Weights(RANDOM, "", f"random weights (seed {RANDOM_SEED})"))
    file = find_checkpoint(checkpoint)
    description, notes = describe_training(file, dataset)
    content, sha256 = read_checkpoint(file)
    tensors = {k: t for k, t in content.items() if ".bn1." not in str(k)}  # never applied
    expected = clip.model.state_dict() | heads.state_dict()
    del expected["logit_scale"]  # not in the files, because the temperature is fixed
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    tensors = check_tensors(tensors, shapes, file)
    for module in (clip.model, heads):
        module.load_state_dict(tensors, strict=False)
    return TrainedHeads(heads, Weights(checkpoint, sha256, description), notes)


def describe_training(file: Path, dataset: str) -> tuple[str, tuple[str, ...]]:
    """Return a checkpoint's description, and a note on its training data and number of shots.

    The files do not record them. A folder "trained-on-NAME" around a file, or around the target of
    a link, names the dataset, and the folders 2, 4 and 8 the shots. Raises InputError if the
    dataset is `dataset`, or a name is unknown.
    """
    paths = file.absolute().parent, file.resolve().parent
    names = [name for path in paths for name in map(str.lower, path.parts)]
    stated = [name for name in names if re.match(r"trained[\W_]*on([\W_]|$)", name)]
    choices = [f"{TRAINED_ON}{name}" for name in DATASETS]
    if unknown := [name for name in stated if name not in choices]:
        raise InputError(
            f'{label("checkpoint")}: the folder "{unknown[0]}" does not name the training data; '
            f"expected {', '.join(choices)}; rename it"
        )
    if f"{TRAINED_ON}{dataset}" in stated:
        raise InputError(
            f"{label('checkpoint')}: {file} was trained on {dataset} (as its folder says), so its "
            "results there would mean nothing; give one that was trained on other data"
        )
    data = " and ".join(sorted({name.removeprefix(TRAINED_ON) for name in stated}))
    shots = next((path.name for path in paths if path.name in SHOTS), "AN UNKNOWN NUMBER OF")
    return f"InCTRL ({file.name})", (
        f"CHECKPOINT TRAINED ON {data or 'UNKNOWN DATA'} FOR {shots} SHOTS",
    )


def build_heads(clip: LoadedClip) -> nn.ModuleDict:
    """Build the trained layers with seeded random weights, named as in the released files.

    Raises InputError for a backbone without the blocks that InCTRL reads.
    """
    visual = clip.model.visual
    reason = unsupported_tower(visual)
    if not reason and len(visual.transformer.resblocks) <= BLOCKS[-1]:
        reason = f"its vision tower has no block after block {BLOCKS[-1]}"
    if reason:
        raise InputError(
            f"{label('model')}: {reason}; InCTRL needs ViT-B-16-plus-240 or a model like it"
        )
    width, patches = visual.output_dim, len(visual.positional_embedding) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        down = nn.Linear(width, width // 4, bias=False)
        up = nn.Linear(width // 4, width, bias=False)
        psi = nn.Sequential(OrderedDict(fc=nn.Sequential(down, nn.ReLU(), up, nn.ReLU())))
        heads = {"diff_head_ref": score_head(width), "diff_head": score_head(patches)}
        return nn.ModuleDict({"adapter": psi} | heads).eval().requires_grad_(False)


def score_head(width: int) -> nn.Sequential:
    """Build a head that maps (B, width) to scores (B, 1) in (0, 1)."""
    layers = OrderedDict(
        projection1=nn.Linear(width, 128),
        relu1=nn.ReLU(),
        bn2=nn.BatchNorm1d(128),
        projection2=nn.Linear(128, 64),
        relu2=nn.ReLU(),
        bn3=nn.BatchNorm1d(64),
        projection3=nn.Linear(64, 1),
        last=nn.Sigmoid(),
    )
    return nn.Sequential(layers)

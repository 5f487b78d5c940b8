"""The learned prompts of AnomalyCLIP, from a checkpoint that its authors released or at random.

A checkpoint was trained on the test images of one benchmark, so it is refused for that benchmark.
The names of the released folders mislead: "..._visa" was trained on MVTec AD, to be tested on VisA.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from models.clip.checkpoints import check_tensors, find_checkpoint, git_blob_id, read_checkpoint
from models.clip.text import text_tower
from models.clip.weights import RANDOM, RANDOM_SEED, LoadedClip, Weights
from utils.cli import label
from utils.errors import InputError

CONTEXT = 12  # learned vectors at the start of a prompt
DEEP_CONTEXT = 4  # learned vectors that later blocks put in place of the first tokens
DEEP_BLOCKS = 8  # of the text tower, from its second on
PROMPTS = [f"{'X ' * CONTEXT}{words}." for words in ("object", "damaged object")]
TITLES = {"visa": "VisA", "mvtec": "MVTec AD"}
TRAINED_ON = {"9_12_4_multiscale": "visa", "9_12_4_multiscale_visa": "mvtec"}  # released folders
# The first digits of the git blob ids of epoch_1.pth to epoch_15.pth in each folder, in the
# repository zqhang/AnomalyCLIP: they identify a file under any name.
RELEASED = {
    "9_12_4_multiscale": """
        573b7e09 a0935fcd 794cdaad 85c67d29 a2076376 87dbfd40 d78be428 e8a56608
        18e5490e 70216d29 0ba11418 04af825b b447a16c 70157c99 c90f1d9d""",
    "9_12_4_multiscale_visa": """
        7fc712fd e66935ce 26758578 533ef020 f648b47d e930a9c9 3c2ab4e3 6ab9d563
        4e652200 83f8acd7 d4a14bc6 aee5ec37 a149dd5b bd19ad7f 72adc786""",
}
HIDDEN = 896  # width of the projections that are stored in a checkpoint but never used
CONTEXT_LENGTH = 77  # tokens of a prompt, padding included
STD = 0.02  # of random vectors, as at the start of training


@dataclass(frozen=True)
class LearnedPrompts:
    """The learned vectors of the two prompts, normal and anomalous, of width D."""

    context: Tensor  # (2, 12, D)
    deep: Tensor  # (8, 4, D) for the second to the ninth block of the text tower
    checkpoint: Weights
    notes: tuple[str, ...] = ()  # for every output


def read_prompts(clip: LoadedClip, checkpoint: str, dataset: str) -> LearnedPrompts:
    """Read a checkpoint, which is a file or "random", for scoring a dataset such as "mvtec".

    Raises InputError for a file that is unreadable, does not fit the method or the CLIP, or was
    trained on `dataset`.
    """
    shapes = checkpoint_shapes(text_tower(clip.model).token_embedding.weight.shape[1])
    notes: tuple[str, ...] = ()
    if checkpoint == RANDOM:
        generator = torch.Generator().manual_seed(RANDOM_SEED)
        vectors = {name: STD * torch.randn(s, generator=generator) for name, s in shapes.items()}
        weights = Weights(RANDOM, "", f"random prompts (seed {RANDOM_SEED})")
    else:
        file = find_checkpoint(checkpoint)
        description, notes = describe_training(file, dataset)
        content, sha256 = read_checkpoint(file)
        weights = Weights(checkpoint, sha256, description)
        vectors = check_tensors(content.get("prompt_learner", content), shapes, file)
        check_clip(clip, vectors, file)
    context = torch.cat([vectors["ctx_pos"], vectors["ctx_neg"]])[:, 0]
    deep = torch.stack([vectors[f"compound_prompts_text.{index}"] for index in range(DEEP_BLOCKS)])
    return LearnedPrompts(context, deep, weights, notes)


def checkpoint_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a checkpoint for a text tower of a width."""
    rest = CONTEXT_LENGTH - 1 - CONTEXT
    shapes = {}
    for state in ("pos", "neg"):  # normal and anomalous
        shapes[f"ctx_{state}"] = (1, 1, CONTEXT, width)
        shapes[f"token_prefix_{state}"] = (1, 1, 1, width)
        shapes[f"token_suffix_{state}"] = (1, 1, rest, width)
        shapes[f"tokenized_prompts_{state}"] = (1, 1, CONTEXT_LENGTH)
    for index in range(DEEP_BLOCKS):
        shapes[f"compound_prompts_text.{index}"] = (DEEP_CONTEXT, width)
        shapes[f"compound_prompt_projections.{index}.weight"] = (HIDDEN, width)
        shapes[f"compound_prompt_projections.{index}.bias"] = (HIDDEN,)
    return shapes


@lru_cache(maxsize=1)  # a run asks several times, and the file is hashed
def describe_training(file: Path, dataset: str) -> tuple[str, tuple[str, ...]]:
    """Return a checkpoint's description, which says what it was trained on, and notes.

    The notes are for every output. Raises InputError if it was trained on `dataset`.
    """
    blob, folder, source = git_blob_id(file)[:8], file.resolve().parent.name, "going by its folder"
    for name, ids in RELEASED.items():
        if blob in ids.split():
            folder, source = name, f"epoch {ids.split().index(blob) + 1}"
    if folder not in TRAINED_ON:
        unknown = "UNKNOWN TRAINING DATA"
        note = f"{unknown} OF THE CHECKPOINT: it may include these images"
        return f"{unknown} ({file.name})", (note,)
    title = TITLES[TRAINED_ON[folder]]
    if TRAINED_ON[folder] == dataset:
        (other,) = TRAINED_ON.keys() - {folder}
        raise InputError(
            f"{label('checkpoint')}: {file} was trained on the test images of {title} ({source}), "
            "so results on them would say nothing; give the file in the folder "
            f"{other} of the authors' repository, which was trained on "
            f"{TITLES[TRAINED_ON[other]]} in spite of its name"
        )
    return f"trained on {title}, {source} ({file.name})", ()


def check_clip(clip: LoadedClip, vectors: dict[str, Tensor], file: Path) -> None:
    """Raise InputError if a checkpoint was trained with another CLIP or with other prompts.

    It stores the embeddings of the prompts' tokens. Random weights pass: results say so.
    """
    if clip.weights.random:
        return
    embedding = text_tower(clip.model).token_embedding
    tokens = clip.tokenizer(PROMPTS).to(embedding.weight.device)
    expected = embedding(tokens)[:, 1 + CONTEXT :].detach().cpu().float()
    stored = torch.cat([vectors["token_suffix_pos"], vectors["token_suffix_neg"]])[:, 0].float()
    # fp16 has 11 significant bits.
    if not clip.quick_gelu or not torch.allclose(stored, expected, rtol=1e-3, atol=1e-4):
        raise InputError(
            f"{label('checkpoint')}: {file} was trained with OpenAI's CLIP ViT-L-14-336, and "
            f"the given weights are different ({clip.weights.description}); leave --model and "
            "--pretrained at their defaults, or give a folder with OpenAI's weights and "
            "open_clip_config.json"
        )

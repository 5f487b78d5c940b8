"""Read the released checkpoint of a method that learns on top of CLIP, and check its tensors.

Pickled code in a file is never executed.
"""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.clip.weights import check_zip
from utils.cli import label
from utils.errors import InputError, describe_error
from utils.files import sha256_of, user_path

ADVICE = "give the file that the method's authors released"
SUFFIXES = (".pth", ".pyth", ".pt")
MAX_NAMES = 4  # of each kind of fault that an error names


def find_checkpoint(checkpoint: str) -> Path:
    """Return the path of a checkpoint; raise InputError if there is no such file."""
    file = user_path(checkpoint)
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f'{label("checkpoint")}: {file} {problem}; {ADVICE}, or "random"')
    if file.suffix not in SUFFIXES:
        raise InputError(
            f"{label('checkpoint')}: {file} does not end in {', '.join(SUFFIXES)}; {ADVICE}"
        )
    return file


def read_checkpoint(file: Path) -> tuple[dict, str]:
    """Return the dictionary in a checkpoint, its tensors on the CPU, and the sha256 of the file.

    Raises InputError if the file is damaged, or holds more than tensors.
    """
    try:
        check_zip(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, expected a dictionary")
        return content, sha256_of(file)
    except Exception as error:  # torch raises many types for damaged files
        reason = describe_error(error)
        if isinstance(error, pickle.UnpicklingError):
            reason = "it contains pickled code, which is never executed"
        raise InputError(
            f"{label('checkpoint')}: cannot read {file} ({reason}); {ADVICE}"
        ) from error


def check_tensors(
    tensors: object, shapes: Mapping[str, tuple[int, ...]], file: Path
) -> dict[str, Tensor]:
    """Return `tensors` if it is a dictionary of exactly the dense tensors that `shapes` lists.

    Raises InputError that names missing and unexpected tensors, and those of another shape.
    """
    if not isinstance(tensors, dict):
        problem = f"holds a {type(tensors).__name__} instead of the method's tensors"
        raise InputError(f"{label('checkpoint')}: {file} {problem}; {ADVICE}")
    missing = [name for name in shapes if name not in tensors]
    unexpected = [str(name) for name in tensors if name not in shapes]
    other = [
        f"{name} {describe_shape(tensors[name])}, expected {shape}"
        for name, shape in shapes.items()
        if name in tensors and not (is_dense(tensors[name]) and tensors[name].shape == shape)
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    if any(faults.values()):
        listed = "; ".join(
            f"{fault}: {join_names(names)}" for fault, names in faults.items() if names
        )
        raise InputError(
            f"{label('checkpoint')}: the tensors in {file} are not those of the method "
            f"({listed}); give the file that its authors released, and leave --model at its default"
        )
    return tensors


def is_dense(value: object) -> bool:
    """Return True for a tensor that stores every element: not sparse, and not quantised."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def describe_shape(value: object) -> str:
    """Return the shape of a dense tensor, or the type of anything else."""
    if is_dense(value):
        return str(tuple(value.shape))
    kind = "a sparse or quantised tensor" if isinstance(value, Tensor) else type(value).__name__
    return f"of type {kind}"


def join_names(names: list[str]) -> str:
    """Join the first names with commas, and count the others."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def git_blob_id(file: Path) -> str:
    """Return the id that git gives to the content of a file, as `git hash-object` does."""
    content = file.read_bytes()
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()

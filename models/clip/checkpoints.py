"""Read the released checkpoint of a method that learns on top of CLIP, and check its tensors.

Pickled code in a file is never executed.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import InputError, describe_error
from utils.files import sha256_of

MAX_NAMES = 4  # of each kind of fault that an error names


def read_checkpoint(file: Path) -> tuple[dict, str]:
    """Return the dictionary in a checkpoint, its tensors on the CPU, and the sha256 of the file.

    Raises InputError if the file is missing, damaged, or holds more than tensors.
    """
    advice = "give the file that the method's authors released"
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f'CHECKPOINT: {file} {problem}; {advice}, or "random"')
    try:
        # torch < 2.6 executes the code in its older, tar-based files even with `weights_only`.
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is damaged, or not a zip archive, which torch.save writes")
        content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, expected a dictionary")
        return content, sha256_of(file)
    except Exception as error:  # torch raises many types for damaged files
        reason = describe_error(error)
        if isinstance(error, pickle.UnpicklingError):
            reason = "it contains pickled code, which is never executed"
        raise InputError(f"CHECKPOINT: cannot read {file} ({reason}); {advice}") from error


def check_tensors(
    tensors: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], file: Path
) -> dict[str, Tensor]:
    """Return `tensors` if they are exactly those that `shapes` lists.

    Raises InputError that names missing and unexpected tensors, and those of another shape.
    """
    missing = [name for name in shapes if name not in tensors]
    unexpected = [str(name) for name in tensors if name not in shapes]
    other = [
        f"{name} {describe_shape(tensors[name])}, expected {shape}"
        for name, shape in shapes.items()
        if name in tensors and getattr(tensors[name], "shape", None) != shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    if any(faults.values()):
        listed = "; ".join(
            f"{fault}: {join_names(names)}" for fault, names in faults.items() if names
        )
        raise InputError(
            f"CHECKPOINT: the tensors in {file} are not those of the method ({listed}); give the "
            "file that its authors released, and leave --model at its default"
        )
    return dict(tensors)


def describe_shape(value: object) -> str:
    """Return the shape of a tensor, or the type of anything else."""
    return (
        str(tuple(value.shape)) if isinstance(value, Tensor) else f"of type {type(value).__name__}"
    )


def join_names(names: list[str]) -> str:
    """Join the first names with commas, and count the others."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def git_blob_id(file: Path) -> str:
    """Return the id that git gives to the content of a file, as `git hash-object` does."""
    content = file.read_bytes()
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()

"""The device and the precision of a run."""

import os
from pathlib import Path

import torch
from torch import nn

from utils.errors import InputError

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # on CUDA, matrix products round their inputs to a 10-bit mantissa
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
AMPERE_CAPABILITY = 8  # compute capability of the first GPUs with tf32 and bf16
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # in /proc/cpuinfo, of x86 and Arm CPUs


def resolve_device(name: str, deterministic: bool = False) -> torch.device:
    """Return the device for DEVICE; "auto" is CUDA if torch sees a GPU, otherwise the CPU.

    `deterministic` makes torch refuse operations whose results may differ between two runs on one
    GPU. Raises InputError for a name that torch does not know and for a missing device.
    """
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unknown = f'DEVICE = "{name}": expected "auto", "cpu", "cuda" or "cuda:N"'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(unknown) from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(unknown)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        problem = f"there is no such GPU; torch sees {count}, numbered from 0"
        if not count:
            problem = (
                'torch sees no GPU; use "cpu", or check the driver and that torch is a CUDA build'
            )
        raise InputError(f'DEVICE = "{name}": {problem}')
    return device


def to_device(model: nn.Module, device: torch.device, precision: str) -> None:
    """Move an open_clip model to `device`, its vision tower in `precision`; text stays in fp32."""
    torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions is True
    model.to(device)
    model.visual.to(DTYPES[precision])


def check_precision(device: torch.device, precision: str) -> str:
    """Raise InputError for a precision that `device` cannot compute.

    Returns a warning for one that is likely slower than fp32, otherwise "".
    """
    if device.type == "cuda":
        older = torch.cuda.get_device_capability(device)[0] < AMPERE_CAPABILITY
        if precision in ("tf32", "bf16") and older:
            raise InputError(
                f'PRECISION = "{precision}": this GPU has no {precision}; use "fp16" or "fp32"'
            )
    elif precision in ("fp16", "tf32"):
        raise InputError(
            f'PRECISION = "{precision}" needs a CUDA device; on a CPU use "fp32" or "bf16"'
        )
    elif precision == "bf16" and not cpu_has_bf16():
        return (
            'PRECISION = "bf16": this CPU reports no bf16 instructions (AVX512_BF16, AMX or '
            'Arm\'s BF16), so "bf16" is likely slower than "fp32"'
        )
    return ""


def cpu_has_bf16() -> bool:
    """Return True if Linux or torch reports that this CPU has bf16 instructions."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux; older versions of torch lack the function
        return getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return not BF16_FLAGS.isdisjoint(words)

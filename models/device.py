"""The device and precision of a run; what the machine cannot do, or not fast, is refused."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.weights import LoadedClip
from utils.errors import InputError

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # products rounded to 10 bits of mantissa, by CUDA devices alone
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
TF32_SINCE = 8  # compute capability of the first GPUs with tf32, Ampere
# A CPU does bf16 fast if a product of this shape, (tokens, width, 4 width) of a ViT-B, takes less
# time than in fp32. Without bf16 instructions it takes several times as long.
PROBE = (1024, 768, 3072)


def resolve_device(name: str, deterministic: bool = False) -> torch.device:
    """The device that DEVICE names; "auto" is CUDA where there is one, else the CPU.

    `deterministic` has torch refuse what may differ between two runs on the same GPU.
    """
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f'DEVICE = "{name}": give "auto", "cpu", "cuda" or "cuda:N"') from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f'DEVICE = "{name}": torch sees {torch.cuda.device_count()} CUDA devices here; use '
            '"cpu", or install a CUDA build of torch and its driver'
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f'DEVICE = "{name}": give "auto", "cpu", "cuda" or "cuda:N"')
    return device


def to_device(clip: LoadedClip, device: torch.device, precision: str) -> None:
    """Move a CLIP to `device`, its vision tower in `precision`; text stays in fp32."""
    torch.backends.cudnn.allow_tf32 = False  # for convolutions torch's default is yes
    clip.model.to(device)
    clip.model.visual.to(DTYPES[precision])


@contextmanager
def tf32_matmul(tf32: bool) -> Iterator[None]:
    """Within it, CUDA computes fp32 products in tf32, if `tf32`; outside all of them are exact."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if tf32:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def check_precision(device: torch.device, precision: str, fast: bool = True) -> None:
    """Refuse a precision that the device cannot do, or, if `fast`, a CPU cannot do fast."""
    if precision == "fp32":
        return
    if device.type == "cuda":
        if precision == "tf32" and torch.cuda.get_device_capability(device)[0] < TF32_SINCE:
            raise InputError('PRECISION = "tf32": this GPU has no tf32; use "fp16" or "fp32"')
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise InputError('PRECISION = "bf16": this GPU has no bf16; use "fp16" or "fp32"')
        return
    if precision in ("fp16", "tf32"):
        raise InputError(
            f'PRECISION = "{precision}" is for CUDA devices; on a CPU use "fp32" or "bf16"'
        )
    if not fast:
        return
    ratio = product_seconds(torch.float32) / product_seconds(DTYPES[precision])
    if ratio < 1:
        raise InputError(
            f'PRECISION = "{precision}": this CPU does {precision} at {ratio:.2f} times the speed '
            'of fp32; use "fp32"'
        )


def product_seconds(dtype: torch.dtype) -> float:
    """The shortest of three timings of one matrix product, in seconds."""
    rows, inner, columns = PROBE
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])  # the first one prepares

"""The device and the precision of a run."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from utils.cli import spell
from utils.errors import InputError, describe_error

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # on CUDA, matrix products round their inputs to a 10-bit mantissa
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
AMPERE_CAPABILITY = 8  # compute capability of the first GPUs with tf32 and bf16
# Flags in /proc/cpuinfo of x86 and Arm CPUs, and torch's functions (in any version) elsewhere.
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}, ("_is_avx512_bf16_supported",)
VNNI = {"avx512_vnni", "avx_vnni"}, ("_is_vnni_supported", "_is_cpu_support_vnni")


def resolve_device(name: str, deterministic: bool = False) -> torch.device:
    """Return the device for DEVICE, and make a GPU torch's current one.

    "auto" is CUDA if torch sees a GPU, otherwise the CPU; "auto" and "cuda" without a number mean
    torch's current GPU. `deterministic` makes torch refuse operations whose results may differ
    between two runs on one GPU. Raises InputError for other names, a missing GPU, and one on which
    a small product fails.
    """
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        # Filling memory before it is written costs a kernel each time, and nothing here reads it.
        torch.utils.deterministic.fill_uninitialized_memory = False
    count = torch.cuda.device_count()
    check_device_name(name, count)
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        index = int(name[5:]) if name.startswith("cuda:") else torch.cuda.current_device()
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        multiply_on(device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA raises the latter
        raise InputError(
            f"{spell('device', name)}: a test computation on the GPU failed "
            f"({describe_error(error)}); this GPU is busy, or not supported by this build of "
            "torch; use --device cpu"
        ) from error
    return device


def check_device_name(name: str, count: int) -> None:
    """Raise InputError for a DEVICE that is misspelled, not supported or beyond `count` GPUs."""
    match = re.fullmatch(r"(auto|cpu|cuda(:\d+)?)|(\w+)(:\d+)?", name, re.ASCII)
    if match and match[1]:
        number = int((match[2] or ":0")[1:])
        if name in ("auto", "cpu") or number < count:
            return
        problem = f"there is no such GPU; torch sees {count}, numbered from 0"
        if not count:
            problem = (
                'torch sees no GPU; use "cpu", or check the driver and that torch is a CUDA build'
            )
    else:
        kind = match[3] if match else ""
        problem = 'expected "auto", "cpu", "cuda" or "cuda:N"'
        if kind in ("mps", "xpu"):
            problem = f"{kind} is not supported; {problem}"
        elif kind == "cpu":
            problem = f"a CPU has no number; {problem}"
    raise InputError(f"{spell('device', name)}: {problem}")


def check_without_cuda(name: str, precision: str) -> None:
    """Raise InputError for a DEVICE or PRECISION that cannot be right, without starting CUDA."""
    check_device_name(name, torch.cuda.device_count())
    if name == "cpu" or not torch.cuda.is_available():
        check_precision(torch.device("cpu"), precision)


def multiply_on(device: torch.device) -> None:
    """Compute a small product on a GPU; raises torch's error if it has no kernels for that GPU."""
    ones = torch.ones(16, 16, device=device)
    (ones @ ones).cpu()


def to_device(model: nn.Module, device: torch.device, precision: str) -> None:
    """Move an open_clip model in fp32 to `device`, and convert its vision tower to `precision`.

    Text stays in fp32. Raises InputError for a tower that cannot be quantised to int8.
    """
    set_matmul_precision(tf32=False)
    model.to(device)
    if model.visual is not None and precision == "int8":
        from models.clip.int8 import quantise_tower  # only runs in int8 load it

        quantise_tower(model.visual)
    elif model.visual is not None:
        for module in model.visual.modules():
            vars(module).pop("int8", None)  # the int8 layers of an earlier call
        model.visual.to(DTYPES[precision])


def set_matmul_precision(tf32: bool) -> None:
    """Make CUDA compute fp32 products and convolutions in fp32, or in TF32.

    This overrides TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 and torch's `fp32_precision` settings.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    for operation in ("conv", "rnn"):  # torch's newer settings, where it has them
        if setting := getattr(torch.backends.cudnn, operation, None):
            setting.fp32_precision = "tf32" if tf32 else "ieee"


@contextmanager
def matmul_precision(tf32: bool) -> Iterator[None]:
    """Compute fp32 products in TF32 inside the block if `tf32`, and in fp32 outside it."""
    set_matmul_precision(tf32)
    try:
        yield
    finally:
        set_matmul_precision(tf32=False)


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Keep torch from using cuDNN's attention inside the block.

    On Hopper it is torch's first choice in half precision, but it builds a plan for every new
    shape, which takes seconds in total.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def check_precision(device: torch.device, precision: str) -> str:
    """Raise InputError for a precision that `device` cannot compute.

    Returns a warning for one that is likely slower than fp32, otherwise "".
    """
    setting = spell("precision", precision)
    if device.type == "cuda":
        if precision == "int8":
            raise InputError(
                f'{setting} is for CPUs with VNNI instructions; on CUDA use "bf16" or '
                '"fp16", which are faster than "fp32" as well'
            )
        older = torch.cuda.get_device_capability(device)[0] < AMPERE_CAPABILITY
        if precision in ("tf32", "bf16") and older:
            raise InputError(f'{setting}: this GPU has no {precision}; use "fp16" or "fp32"')
    elif precision in ("fp16", "tf32"):
        allowed = '"fp32", "bf16" or "int8"' if cpu_reports(*VNNI) else '"fp32" or "bf16"'
        raise InputError(f"{setting} needs a CUDA device; on this CPU use {allowed}")
    elif precision == "bf16" and not cpu_reports(*BF16):
        return (
            f"{setting}: this CPU reports no bf16 instructions (AVX512_BF16, AMX or "
            'Arm\'s BF16), so "bf16" is likely slower than "fp32"'
        )
    elif precision == "int8":
        problem = (
            "this CPU reports no AVX-512 VNNI or AVX-VNNI instructions, without which sums of "
            '8-bit products saturate; use "fp32"'
        )
        if cpu_reports(*VNNI):
            from models.clip.int8 import unsupported_reason  # only runs in int8 load it

            problem = unsupported_reason()
        if problem:
            raise InputError(f"{setting}: {problem}")
    return ""


def cpu_reports(flags: set[str], functions: Sequence[str]) -> bool:
    """Return True if Linux or torch reports that this CPU has one of some kinds of instructions."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux
        return any(getattr(torch.cpu, name, lambda: False)() for name in functions)
    return not flags.isdisjoint(words)


def describe_device(device: torch.device) -> str:
    """Return the name of the GPU, or the CPU's threads and instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    threads = f"{count} thread{'' if count == 1 else 's'}"
    return f"CPU, {threads}, {torch.backends.cpu.get_cpu_capability()}"

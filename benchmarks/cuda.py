"""Measure the encoder on a GPU: speed, share of the peak, memory, and what its choices gain.

    python benchmarks/cuda.py [--model NAME] [--device DEVICE] [--deterministic]

For every precision and number of tiles (square images) in a pass, prints images/s, TFLOP/s of the
encoder's matrix products, and their share of the peak, which is the speed of one product of
8192 x 8192 matrices of the same type in the same run. The peak memory is printed beside what
benchmarks/memory.py predicts. "windows" is the time with one sequence for each window, "cuDNN" that
with cuDNN's attention allowed, both as multiples of ours; the seconds of each first pass include
what is planned or compiled once. Weights are random. Medians of repeated passes, timed by CUDA
events after a warm-up; about two minutes. `--deterministic` measures the same with deterministic
algorithms: divide the images/s for their cost. A precision that the GPU lacks is left out, with the
reason. Writes nothing.
"""

import argparse
import contextlib
import copy
import datetime
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import torch
from torch import Tensor

from benchmarks.encoder import products_of
from benchmarks.memory import MIB, TILES, peak_bytes
from models.clip import encoder as encoder_module
from models.clip.device import (
    DTYPES,
    check_precision,
    describe_device,
    matmul_precision,
    resolve_device,
    to_device,
)
from models.clip.encoder import WindowedEncoder
from models.clip.weights import RANDOM, LoadedClip, load_clip
from utils.cli import run_cli
from utils.errors import InputError

PEAK_SIZE = 8192  # rows and columns of the product that measures the peak
REPEATS = 7
SECONDS_PER_ROW = 0.5  # fewer repeats of slow passes, but at least 3
HEADER = (
    "precision  tiles  images/s  TFLOP/s  share  peak MiB  predicted  windows   cuDNN  "
    "first pass s: ours, cuDNN"
)


def median_seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Return the median seconds of a call on the GPU, and the seconds of the first call."""
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    times = [_seconds(function)]
    repeats = max(3, min(REPEATS, int(SECONDS_PER_ROW / times[0])))
    times += [_seconds(function) for _ in range(repeats - 1)]
    return statistics.median(times), first


def _seconds(function: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def measured_peak(device: torch.device, dtype: torch.dtype, tf32: bool) -> float:
    """Return the FLOP/s of one large product."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device, dtype=dtype) for _ in range(2))
    with matmul_precision(tf32):
        seconds, _ = median_seconds(lambda: a @ b)
    return 2 * PEAK_SIZE**3 / seconds


def measure_with_cudnn(encoder: WindowedEncoder, pixels: Tensor) -> tuple[float, float]:
    """Return the median and the first seconds of a pass with cuDNN's attention allowed."""
    with mock.patch.object(encoder_module, "without_cudnn_attention", contextlib.nullcontext):
        torch.backends.cuda.enable_cudnn_sdp(True)
        return median_seconds(lambda: encoder.encode_images(pixels))


def predict_memory(clip: LoadedClip) -> dict[int, list[float]]:
    """Return the predicted MiB for TILES, by the bytes of a number in the vision tower."""
    shapes = copy.deepcopy(clip.model).to("meta")
    predicted = {}
    for dtype in (torch.float32, torch.float16):
        shapes.visual.to(dtype)
        peaks = [peak_bytes(shapes, clip.image_size, tiles) / MIB for tiles in TILES]
        predicted[dtype.itemsize] = peaks
    return predicted


def measure(clip: LoadedClip, predicted: list[float], device: torch.device, precision: str) -> None:
    """Print the rows of one precision."""
    try:
        check_precision(device, precision)
    except InputError as error:
        print(f"{precision:9}  left out: {error}")
        return
    to_device(clip.model, device, precision)
    tf32, half = precision == "tf32", precision in ("fp16", "bf16")
    ours = WindowedEncoder(clip.model.visual, tf32=tf32)
    by_window = WindowedEncoder(clip.model.visual, tf32=tf32, by_rows=False)
    peak = measured_peak(device, DTYPES[precision], tf32)
    print(f"{precision:9}  peak: {peak / 1e12:.0f} TFLOP/s", flush=True)
    for tiles, prediction in zip(TILES, predicted, strict=True):
        pixels = torch.randn(tiles, 3, clip.image_size, clip.image_size, device=device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        seconds, first = median_seconds(lambda pixels=pixels: ours.encode_images(pixels))
        memory = torch.cuda.max_memory_allocated(device) / MIB
        windows, _ = median_seconds(lambda pixels=pixels: by_window.encode_images(pixels))
        cudnn, cudnn_first = measure_with_cudnn(ours, pixels) if half else (seconds, first)
        products = sum(2 * rows * width * out for rows, width, out in products_of(ours, tiles))
        print(
            f"{precision:9} {tiles:6} {tiles / seconds:9.1f} {products / seconds / 1e12:8.1f} "
            f"{products / seconds / peak:6.2f} {memory:9.0f} {prediction:10.0f} "
            f"{windows / seconds:8.2f} {f'{cudnn / seconds:7.2f}' if half else '      -'}  "
            f"{first:.2f}, {f'{cudnn_first:.2f}' if half else '-'}",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="ViT-B-16-plus-240", help="an open_clip model (default: %(default)s)"
    )
    parser.add_argument("--device", default="cuda", help='"cuda" or "cuda:N" (default: cuda)')
    parser.add_argument(
        "--deterministic", action="store_true", help="measure deterministic algorithms"
    )
    options = parser.parse_args()
    device = resolve_device(options.device, options.deterministic)
    if device.type != "cuda":
        raise InputError(f"--device {options.device}: this benchmark measures a CUDA GPU")
    clip = load_clip(options.model, RANDOM)
    predicted = predict_memory(clip)
    mode = "deterministic algorithms, " if options.deterministic else ""
    print(f"{options.model}, scales 2 and 3, random weights; {mode}{describe_device(device)}")
    print(f"torch {torch.__version__}, {datetime.date.today()}\n\n{HEADER}", flush=True)
    for precision, dtype in DTYPES.items():
        measure(clip, predicted[dtype.itemsize], device, precision)


if __name__ == "__main__":
    run_cli(main)

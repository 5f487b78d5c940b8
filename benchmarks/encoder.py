"""Measure seconds per image of the windowed encoder, beside the time of its matrix products alone.

    python benchmarks/encoder.py [--quick] [--methods] [--precisions fp32] [--model NAME]

Weights are random, which does not affect speed. The limit is measured in the same process: the
products of a forward pass (linear layers of all blocks, in their shapes, each computed as few times
as the algebra allows) and nothing else. If anomalib is installed, its WinClip encodes the same
images in fp32 with the same weights and a corrected token layout, and the largest difference
between the embeddings is printed. The prompts of one category are timed too, beside open_clip's
`encode_text`. Then WinCLIP scores an image with and without maps; `--methods` adds AnomalyCLIP and
InCTRL with their own backbones and random checkpoints. Repeats are interleaved, so that a busy
moment of the machine affects all; medians are printed. A precision that the device does not support
is left out, with the reason. `--quick` takes one batch size and two repeats. Writes nothing.
"""

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import anomalib_winclip, largest_difference
from models.clip.device import (
    check_precision,
    describe_device,
    matmul_precision,
    resolve_device,
    to_device,
)
from models.clip.encoder import WindowedEncoder
from models.clip.text import encode_states
from models.clip.weights import RANDOM, LoadedClip, load_clip
from models.methods import BACKBONES, Method, WinClip, load_method
from models.prompts import prompt_ensemble
from utils.cli import run_cli
from utils.errors import InputError
from utils.workers import reuse_freed_memory

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "int8")
BATCHES = {"cpu": (1, 2), "cuda": (8, 32)}
REPEATS, QUICK_REPEATS = 5, 2
CATEGORY = "metal nut"
REFERENCES = 4  # of InCTRL

Product = tuple[int, int, int]  # rows, inputs and outputs of a linear layer


def products_of(encoder: WindowedEncoder, batch: int) -> list[Product]:
    """List every linear product of `batch` images: patches, blocks, projection."""
    visual = encoder.visual
    width, blocks = visual.conv1.out_channels, len(visual.transformer.resblocks)
    hidden = visual.transformer.resblocks[0].mlp.c_fc.out_features
    patches, tokens = encoder.group_tokens[0] - 1, len(encoder.token_index)
    sequences = sum(count for count, _ in encoder.group_shapes)
    pixels = visual.conv1.weight[0].numel()

    def rest_of_block(rows: int) -> list[Product]:
        return [(rows, width, width), (rows, width, hidden), (rows, hidden, width)]

    products = [(patches, pixels, width), (patches + 1, width, 3 * width), *rest_of_block(tokens)]
    products += [(tokens, width, 3 * width), *rest_of_block(tokens)] * (blocks - 2)
    # The last block is computed for the full image, and once more for the class tokens alone, which
    # have one query each, and no keys and values of other tokens.
    products += [(patches + 1, width, 3 * width), *rest_of_block(patches + 1)]
    products += [(sequences, width, width)] * 3 + rest_of_block(sequences)
    products.append((sequences, width, visual.proj.shape[1]))
    return [(rows * batch, inputs, outputs) for rows, inputs, outputs in products]


def bare_products(
    products: list[Product], device: torch.device, dtype: torch.dtype, tf32: bool
) -> Callable[[], None]:
    """Return a function that computes the products and nothing else."""
    shapes = {(width, outputs) for _, width, outputs in products}
    weights = {s: torch.randn(s[1], s[0], device=device, dtype=dtype) for s in shapes}
    inputs = {
        (rows, width): torch.randn(rows, width, device=device, dtype=dtype)
        for rows, width, _ in products
    }

    def run() -> None:
        with matmul_precision(tf32):
            for rows, width, out in products:
                F.linear(inputs[rows, width], weights[width, out])

    return run


def median_seconds(
    functions: list[Callable[[], object]], repeats: int, device: torch.device
) -> list[float]:
    """Time each function, in turn, after one warm-up each; return the medians in their order."""
    seconds: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def measure(name: str, device: torch.device, precision: str, quick: bool) -> list[str]:
    """Return the lines of the table for one precision."""
    try:
        warning = check_precision(device, precision)
    except InputError as error:
        return [f"{precision:9}  left out: {error}"]
    clip = load_clip(name, RANDOM)
    to_device(clip.model, device, "fp32")
    peer = anomalib_winclip(clip, name)
    to_device(clip.model, device, precision)
    tf32 = precision == "tf32"
    encoder = WindowedEncoder(clip.model.visual, tf32=tf32)
    lines = [f"{precision:9}  note: {warning}"] if warning else []
    for batch in BATCHES[device.type][: 1 if quick else None]:
        pixels = torch.randn(batch, 3, clip.image_size, clip.image_size, device=device)
        products = products_of(encoder, batch)
        functions = [
            lambda pixels=pixels: encoder.encode_images(pixels),
            bare_products(products, device, encoder.dtype, tf32),
        ]
        if peer:
            functions.append(lambda pixels=pixels: peer.encode_image(pixels))
        with torch.inference_mode():
            seconds = median_seconds(functions, QUICK_REPEATS if quick else REPEATS, device)
            ours, limit = seconds[:2]
            comparison = compare_peer(encoder, peer, pixels, seconds[2] / ours) if peer else ""
        work = sum(2 * rows * inputs * outputs for rows, inputs, outputs in products) / batch
        lines.append(
            f"{precision:9} {batch:6} {ours / batch:12.3f} {limit / batch:12.3f} "
            f"{limit / ours:8.2f} {work * batch / ours / 1e9:10.0f}  {comparison}"
        )
    return lines


def measure_text(name: str, device: torch.device, quick: bool) -> str:
    """Return the line on the prompts of one category."""
    clip = load_clip(name, RANDOM)
    to_device(clip.model, device, "fp32")
    ensemble = prompt_ensemble(CATEGORY)
    prompts = [prompt for state in ensemble for prompt in state]
    functions = [
        lambda: encode_states(clip.model, clip.tokenizer, *ensemble),
        lambda: clip.model.encode_text(clip.tokenizer(prompts).to(device)),
    ]
    with torch.inference_mode():
        seconds = median_seconds(functions, QUICK_REPEATS if quick else REPEATS, device)
    ours, theirs = seconds
    return (
        f"{len(prompts)} prompts of a category: {ours:.2f} s, of 15: {15 * ours:.1f} s; "
        f"open_clip's encode_text takes {theirs / ours:.1f} times that"
    )


def compare_peer(encoder: WindowedEncoder, peer: nn.Module, pixels: Tensor, ratio: float) -> str:
    """Describe anomalib's time and the largest difference between its embeddings and ours."""
    features = encoder.encode_images(pixels)
    image, windows, _ = peer.encode_image(pixels)
    pairs = zip((features.image, *features.windows), (image, *windows), strict=True)
    difference = max(largest_difference(*pair) for pair in pairs)
    return f"anomalib, fp32: {ratio:.2f} times ours; difference {difference:.0e}"


def measure_methods(name: str, device: torch.device, others: bool, quick: bool) -> list[str]:
    """Return a line on the image score of each method, and one on the embedding without maps."""
    clip, repeats = load_clip(name, RANDOM), QUICK_REPEATS if quick else REPEATS
    to_device(clip.model, device, "fp32")
    methods: dict[str, Method] = {
        "WinCLIP": winclip(clip, (2, 3)),
        "WinCLIP without maps": winclip(clip, ()),
    }
    for other in ("anomalyclip", "inctrl") if others else ():
        backbone = load_clip(BACKBONES[other][0], RANDOM)
        to_device(backbone.model, device, "fp32")
        methods[other] = load_method(other, backbone, RANDOM, "")
    with torch.inference_mode():
        scorers = [scorer(method, label == "inctrl") for label, method in methods.items()]
        seconds = median_seconds(scorers, repeats, device)
        pixels = torch.randn(1, 3, clip.image_size, clip.image_size, device=device)
        full, plain = (m.encode_images(pixels).image for m in list(methods.values())[:2])
    lines = [
        f"{label:20} {time:12.3f} {seconds[0] / time:8.1f}"
        for label, time in zip(methods, seconds, strict=True)
    ]
    difference = "the same bits"
    if not torch.equal(full, plain):
        difference = f"a difference of {largest_difference(full, plain):.0e}"
    return [*lines, f"the image embeddings with and without maps have {difference}"]


def winclip(clip: LoadedClip, scales: tuple[int, ...]) -> WinClip:
    """Return zero-shot WinCLIP with the paper's settings; without maps if there are no scales."""
    encoder = WindowedEncoder(clip.model.visual, scales, "post_ln" if scales else None)
    return WinClip(clip, encoder, prompt_ensemble, 0.07, True, "embeddings", bool(scales))


def scorer(method: Method, needs_references: bool) -> Callable[[], object]:
    """Return a function that scores one image, from pixels to the score."""
    shape = 3, method.image_size, method.image_size
    pixels, text = torch.randn(1, *shape, device=method.device), method.text_bank(CATEGORY)
    visual, rows = None, None
    if needs_references:
        references = torch.randn(REFERENCES, *shape, device=method.device)
        visual = method.visual_bank(method.encode_images(references))
        rows = torch.arange(REFERENCES, device=method.device)
    return lambda: method.score(method.encode_images(pixels), text, visual, [rows])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one batch size and two repeats")
    parser.add_argument("--methods", action="store_true", help="time AnomalyCLIP and InCTRL too")
    parser.add_argument(
        "--precisions", nargs="*", choices=PRECISIONS, default=PRECISIONS, help="default: all"
    )
    parser.add_argument(
        "--model", default="ViT-B-16-plus-240", help="an open_clip model (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="auto", help='"auto" (default), "cpu", "cuda" or "cuda:N"'
    )
    options = parser.parse_args()
    reuse_freed_memory()
    device = resolve_device(options.device)
    print(f"{options.model}, scales 2 and 3, random weights; {describe_device(device)}")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, {datetime.date.today()}\n"
    )
    print("precision  batch  ours s/image   products  share of   GFLOP/s")
    print("                               alone, s/image   limit")
    for precision in options.precisions:
        for line in measure(options.model, device, precision, options.quick):
            print(line, flush=True)
    print("\nimage score, fp32         s/image  WinCLIP's time / this time")
    for line in measure_methods(options.model, device, options.methods, options.quick):
        print(line, flush=True)
    print(f"\ntext, fp32: {measure_text(options.model, device, options.quick)}")


if __name__ == "__main__":
    run_cli(main)

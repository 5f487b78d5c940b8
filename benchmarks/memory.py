"""Compute the encoder's peak memory for each precision and number of tiles, without a GPU.

    python benchmarks/memory.py [--model NAME]

Runs the encoder on tensors that have shapes but no values, as it runs on CUDA, and adds up the
tensors that are alive at the same time: the weights of the whole CLIP, the tiles, and everything
in between. Not included is what CUDA keeps beside tensors: some 0.5 GiB for its context and the
workspaces of its libraries. Prints a table in MiB; writes nothing.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.clip.device import DTYPES
from models.clip.encoder import WindowedEncoder
from models.clip.weights import RANDOM, load_clip
from utils.cli import run_cli

PRECISIONS = ("fp32", "fp16")  # tf32 takes as much as fp32, bf16 as fp16
TILES = (1, 2, 4, 8, 16, 32)
MIB = 2**20


class LiveMemory(TorchDispatchMode):
    """Record the largest sum of bytes of the tensors that are alive after an operation."""

    def __init__(self, tensors: list[Tensor]):
        super().__init__()
        self.storages: dict[int, StorageWeakRef] = {}
        self.sizes: dict[int, int] = {}
        self.peak = 0
        self._add(tensors)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self._add([leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
        return result

    def _add(self, tensors: list[Tensor]) -> None:
        for storage in (tensor.untyped_storage() for tensor in tensors):
            self.storages[storage._cdata] = StorageWeakRef(storage)
            self.sizes[storage._cdata] = storage.nbytes()
        self.storages = {key: ref for key, ref in self.storages.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.sizes[key] for key in self.storages))


def peak_bytes(model: nn.Module, size: int, tiles: int) -> int:
    """Return the bytes of all tensors at the peak of one pass over `tiles` tiles of `size` pixels.

    `model` is a CLIP on the device "meta", its vision tower in the precision of interest.
    """
    encoder = WindowedEncoder(model.visual, by_rows=True)
    pixels = torch.empty(tiles, 3, size, size, device=encoder.device)
    with LiveMemory([*model.parameters(), *model.buffers(), pixels]) as memory:
        encoder.encode_images(pixels)
    return memory.peak


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="ViT-B-16-plus-240", help="an open_clip model (default: %(default)s)"
    )
    options = parser.parse_args()
    clip = load_clip(options.model, RANDOM)
    clip.model.to("meta")
    print(f"{options.model}, MiB at the peak, torch {torch.__version__}\n")
    print(f"{'tiles':>9}{''.join(f'{tiles:8}' for tiles in TILES)}")
    for precision in PRECISIONS:
        clip.model.visual.to(DTYPES[precision])
        peaks = [peak_bytes(clip.model, clip.image_size, tiles) / MIB for tiles in TILES]
        print(f"{precision:>9}{''.join(f'{peak:8.0f}' for peak in peaks)}", flush=True)


if __name__ == "__main__":
    run_cli(main)

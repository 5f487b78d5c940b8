"""Several processes of one run, as torchrun starts them: who does what, and how it is joined.

The images of a category are shared out; the first process alone holds the result folder, evaluates
and speaks. A plain run is a `Ranks` of one, which shares with nobody.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from utils.cli import print_stderr
from utils.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # others wait so long for the first one's metrics and heatmaps


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run; `rank` 0 is the first."""

    rank: int = 0
    world: int = 1  # processes on all machines
    local: int = 0  # its number on its machine, and so its GPU
    store: dist.Store | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> list[T]:
        """This process's part of some rows: neighbours, and as many as the others give or take one.

        >>> [Ranks(rank, 3).share("abcdefg") for rank in range(3)]
        [['a', 'b'], ['c', 'd'], ['e', 'f', 'g']]
        """
        start, end = (len(rows) * number // self.world for number in (self.rank, self.rank + 1))
        return list(rows[start:end])

    def print_stderr(self, line: str) -> None:
        """Write to standard error what ends the run, unless another process has done so."""
        if self.store is None or self.store.add("told", 1) == 1:
            print_stderr(
                line if self.first else f"\n{line}"
            )  # the first one's progress bar stands there

    def wait(self) -> None:
        """Go on when every process is here."""
        self.all_gather(None)

    def all_gather(self, part: T) -> list[T]:
        """Every process's part, in their order."""
        if self.world == 1:
            return [part]
        parts = [None] * self.world
        with together():
            dist.all_gather_object(parts, part)
        return parts

    def gather(self, part: T) -> list[T]:
        """Every process's part, in their order, at the first one; elsewhere nothing."""
        if self.world == 1:
            return [part]
        parts = [None] * self.world if self.first else None
        with together():
            dist.gather_object(part, parts)
        return parts or []

    def broadcast(self, value: T) -> T:
        """What the first process has."""
        if self.world == 1:
            return value
        values = [value]
        with together():
            dist.broadcast_object_list(values)
        return values[0]

    def concatenate(self, rows: Tensor | None) -> Tensor:
        """The rows (n, ...) of every process, in their order; None where one has no rows."""
        if self.world == 1:
            return rows
        known = self.all_gather(
            None if rows is None else (rows.shape, rows.dtype, rows.device.type)
        )
        shape, dtype, device = next(one for one in known if one is not None)
        counts = [one[0][0] if one else 0 for one in known]
        if rows is None:
            rows = torch.empty((0, *shape[1:]), dtype=dtype, device=device)
        padding = [0, 0] * (rows.ndim - 1) + [0, max(counts) - len(rows)]
        padded = F.pad(rows, padding).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        with together():
            dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def check_device(self, name: str) -> None:
        """Take the GPU of this process; a DEVICE that all would share is an `InputError`."""
        if self.world == 1 or name == "cpu" or not torch.cuda.is_available():
            return
        if ":" in name:
            raise InputError(
                f'DEVICE = "{name}": {self.world} processes cannot share one GPU; use "auto"'
            )
        if self.local >= torch.cuda.device_count():
            raise InputError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPUs that "
                "torch sees on this machine; give --nproc-per-node as many"
            )
        torch.cuda.set_device(self.local)


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Within the block, this process works with the others of its torchrun, if there are any."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "LOCAL_RANK" not in os.environ:
        yield ALONE
        return
    store, rank, world = next(dist.rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield Ranks(rank, world, int(os.environ["LOCAL_RANK"]), store)
    finally:
        dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Around what all processes do together: that one of them ended is an `InputError`."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "another process of this run has ended; what was finished is kept: start it again"
        ) from error

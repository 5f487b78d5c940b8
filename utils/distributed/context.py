"""The processes of a run, over which the images of a category are sharded.

Only the main process holds the result folder, evaluates and prints. Without torchrun, a run has the
single process SINGLE_PROCESS; `utils.distributed.torchrun` manages those that torchrun starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from utils.cli import print_stderr

T = TypeVar("T")


@dataclass(frozen=True)
class DistributedContext:
    """This process among the processes of its run; in this base class, the only one."""

    rank: int = 0  # 0 is the main process
    world_size: int = 1  # processes on all machines

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that writes and prints."""
        return self.rank == 0

    def shard(self, rows: Sequence[T]) -> list[T]:
        """Return this process's contiguous shard of `rows`; shard sizes differ by at most one.

        >>> [DistributedContext(rank, 3).shard("abcdefg") for rank in range(3)]
        [['a', 'b'], ['c', 'd'], ['e', 'f', 'g']]
        """
        start, end = (len(rows) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return list(rows[start:end])

    def print_stderr(self, line: str) -> None:
        """Print the line that ends the run, unless another process has already printed one."""
        print_stderr(line)

    def barrier(self) -> None:
        """Wait until every process has arrived."""
        self.all_gather(None)

    def all_gather(self, value: T) -> list[T]:
        """Return every process's value, ordered by rank."""
        return [value]

    def gather(self, value: T) -> list[T]:
        """Return every process's value, ordered by rank, in the main process; elsewhere []."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return the main process's value."""
        return value

    def claim_device(self, name: str) -> None:
        """Select the GPU of this process; raise `InputError` if processes would share one."""


SINGLE_PROCESS = DistributedContext()

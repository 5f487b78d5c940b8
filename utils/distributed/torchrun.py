"""The processes that torchrun starts: collective calls over gloo, heartbeats, a GPU for each."""

import itertools
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from utils.cli import print_stderr, spell
from utils.distributed.context import DistributedContext, T
from utils.errors import InputError, describe_error

JOIN_TIMEOUT = timedelta(minutes=10)  # from the start of the first process to that of the last
COLLECTIVE_TIMEOUT = timedelta(hours=6)  # processes wait for one that decodes slowly
HEARTBEAT_S, PEER_TIMEOUT_S = 5, 45  # between heartbeats; until a silent process counts as dead


@dataclass(frozen=True)
class TorchrunContext(DistributedContext):
    """This process among two or more that torchrun has started."""

    local_rank: int = 0  # index on this machine, and so the index of its GPU
    store: dist.Store | None = None  # of values that the processes share

    def print_stderr(self, line: str) -> None:
        """Print the line that ends the run, unless another process has already printed one."""
        if self.store.add("last_line_printed", 1) == 1:
            print_stderr(line if self.is_main else f"\n{line}")  # below the main process's bar

    def all_gather(self, value: T) -> list[T]:
        """Return every process's value, ordered by rank."""
        values = [None] * self.world_size
        with peer_errors():
            dist.all_gather_object(values, value)
        return values

    def gather(self, value: T) -> list[T]:
        """Return every process's value, ordered by rank, in the main process; elsewhere []."""
        values = [None] * self.world_size if self.is_main else None
        with peer_errors():
            dist.gather_object(value, values)
        return values or []

    def broadcast(self, value: T) -> T:
        """Return the main process's value."""
        values = [value]
        with peer_errors():
            dist.broadcast_object_list(values)
        return values[0]

    def claim_device(self, name: str) -> None:
        """Select the GPU of this process; raise `InputError` if processes would share one.

        With srun, each process may see one GPU only, its own; otherwise all see all of a machine.
        """
        if name.startswith("cuda:"):
            raise InputError(
                f"{spell('device', name)}: {self.world_size} processes cannot share one GPU; with "
                'torchrun, use "auto"'
            )
        claimed, count = None, torch.cuda.device_count()
        if name in ("auto", "cuda") and count:
            index = self.local_rank if self.local_rank < count else 0
            torch.cuda.set_device(index)
            claimed = gpu_identity(index)
        gpus = [gpu for gpu in self.all_gather(claimed) if gpu]
        if len(set(gpus)) < len(gpus):
            raise InputError(
                "torchrun started more processes than torch sees GPUs on this machine "
                f"({count}); set --nproc-per-node to that number"
            )


def gpu_identity(index: int) -> tuple[str, str]:
    """Return the host name and an identifier of GPU `index` that is unique on it."""
    properties = torch.cuda.get_device_properties(index)
    return platform.node(), str(getattr(properties, "uuid", index))


@contextmanager
def join_processes() -> Iterator[TorchrunContext]:
    """Join the processes that torchrun started, and leave them after the block."""
    store, rank, world_size = next(dist.rendezvous("env://", timeout=JOIN_TIMEOUT))
    size = {"rank": rank, "world_size": world_size}
    dist.init_process_group("gloo", store=store, timeout=COLLECTIVE_TIMEOUT, **size)
    try:
        context = TorchrunContext(rank, world_size, int(os.environ["LOCAL_RANK"]), store)
        with watch_peers(context):
            yield context
    finally:
        dist.destroy_process_group()


@contextmanager
def watch_peers(context: TorchrunContext) -> Iterator[None]:
    """End this process if another one falls silent within the block.

    gloo notices a closed connection at once. But a machine that hangs or loses its network closes
    none, so the processes also write heartbeats to their store. Intervals without a new heartbeat
    are counted; a clock would go on while a run is suspended with Ctrl-Z.
    """
    over, silence = threading.Event(), dict.fromkeys(range(context.world_size), 0)
    threads = [
        threading.Thread(target=function, args=(context, silence, over), daemon=True)
        for function in (exchange_heartbeats, count_silence)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
        with suppress(RuntimeError):  # the process that serves the store has already left
            context.store.set(f"left/{context.rank}", "")
    finally:
        over.set()
        for thread in threads:
            thread.join(1)  # a store that does not answer must not keep the process alive


def exchange_heartbeats(
    context: TorchrunContext, silence: dict[int, int], over: threading.Event
) -> None:
    """Write heartbeats and read those of all processes; any call may block if a machine hangs."""
    store, last = context.store, {}
    for beat in itertools.count():
        with suppress(RuntimeError):  # the process that serves the store has exited
            store.set(f"beat/{context.rank}", str(beat))
            for rank in silence:
                current = store.get(f"beat/{rank}") if store.check([f"beat/{rank}"]) else None
                if current != last.get(rank) or store.check([f"left/{rank}"]):
                    silence[rank], last[rank] = 0, current
        if over.wait(HEARTBEAT_S):
            return


def count_silence(context: TorchrunContext, silence: dict[int, int], over: threading.Event) -> None:
    """Count the intervals without a heartbeat; end the process when one has been silent too long.

    If the store does not answer, all are silent.
    """
    while not over.wait(HEARTBEAT_S):
        for rank in silence:
            silence[rank] += 1
        alive = [rank for rank, count in silence.items() if count * HEARTBEAT_S < PEER_TIMEOUT_S]
        if len(alive) == len(silence):
            continue
        if context.rank == min(alive, default=context.rank):
            silent = " and ".join(str(rank) for rank in silence if rank not in alive)
            print_stderr(
                f"error: no heartbeat of process {silent} of this run for {PEER_TIMEOUT_S} s; "
                "start the run again: finished work is kept"
            )
        os._exit(1)  # the main thread may be waiting for that process


@contextmanager
def peer_errors() -> Iterator[None]:
    """Wrap collective calls; raise `InputError` if another process has exited.

    Inference mode is off inside: torch 2.4's `gather_object` writes into its tensors in place.
    """
    try:
        with torch.inference_mode(False):
            yield
    except RuntimeError as error:
        raise InputError(
            f"another process of this run has exited or does not answer ({describe_error(error)}); "
            "start the run again: finished work is kept"
        ) from error

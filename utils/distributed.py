"""The processes of a run: those that torchrun starts, and workers that decode images or write.

The images of a category are sharded over the torchrun processes; only the main process holds the
result folder, evaluates and prints. Without torchrun, a run has the single process SINGLE_PROCESS.
"""

import ctypes
import itertools
import multiprocessing
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from utils.cli import print_stderr
from utils.errors import InputError, describe_error

T = TypeVar("T")
JOIN_TIMEOUT = timedelta(minutes=10)  # from the start of the first process to that of the last
COLLECTIVE_TIMEOUT = timedelta(hours=6)  # processes wait for one that decodes slowly
HEARTBEAT_S, PEER_TIMEOUT_S = 5, 45  # between heartbeats; until a silent process counts as dead
WORKER_NICENESS = 5  # the encoder and the decoding workers go first
PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MALLOC_THRESHOLD_BYTES = 2**30  # glibc returns larger freed arrays to the system


@dataclass(frozen=True)
class DistributedContext:
    """This process among the processes of its run."""

    rank: int = 0  # 0 is the main process
    world_size: int = 1  # processes on all machines
    local_rank: int = 0  # index on this machine, and so the index of its GPU
    store: dist.Store | None = field(default=None, repr=False)

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
        if self.store is None or self.store.add("last_line_printed", 1) == 1:
            print_stderr(line if self.is_main else f"\n{line}")  # below the main process's bar

    def barrier(self) -> None:
        """Wait until every process has arrived."""
        self.all_gather(None)

    def all_gather(self, value: T) -> list[T]:
        """Return every process's value, ordered by rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        with peer_errors():
            dist.all_gather_object(values, value)
        return values

    def gather(self, value: T) -> list[T]:
        """Return every process's value, ordered by rank, in the main process; elsewhere []."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size if self.is_main else None
        with peer_errors():
            dist.gather_object(value, values)
        return values or []

    def broadcast(self, value: T) -> T:
        """Return the main process's value."""
        if self.world_size == 1:
            return value
        values = [value]
        with peer_errors():
            dist.broadcast_object_list(values)
        return values[0]

    def claim_device(self, name: str) -> None:
        """Select the GPU of this process; raise `InputError` if processes would share one.

        With srun, each process may see one GPU only, its own; otherwise all see all of a machine.
        """
        if self.world_size == 1:
            return
        if name.startswith("cuda:"):
            raise InputError(
                f'DEVICE = "{name}": {self.world_size} processes cannot share one GPU; with '
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


SINGLE_PROCESS = DistributedContext()


@contextmanager
def init_distributed() -> Iterator[DistributedContext]:
    """Join the processes that torchrun started, if any, and leave them after the block."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "LOCAL_RANK" not in os.environ:
        yield SINGLE_PROCESS
        return
    store, rank, world_size = next(dist.rendezvous("env://", timeout=JOIN_TIMEOUT))
    size = {"rank": rank, "world_size": world_size}
    dist.init_process_group("gloo", store=store, timeout=COLLECTIVE_TIMEOUT, **size)
    try:
        context = DistributedContext(rank, world_size, int(os.environ["LOCAL_RANK"]), store)
        with watch_peers(context):
            yield context
    finally:
        dist.destroy_process_group()


@contextmanager
def watch_peers(context: DistributedContext) -> Iterator[None]:
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
    context: DistributedContext, silence: dict[int, int], over: threading.Event
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


def count_silence(
    context: DistributedContext, silence: dict[int, int], over: threading.Event
) -> None:
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
                f"error: process {silent} of this run has been silent for {PEER_TIMEOUT_S} s; "
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


@contextmanager
def worker_pool(processes: int) -> Iterator[Executor | None]:
    """Start worker processes that write results; None for 0, and where forking is not safe.

    They are forked at once, before CUDA and threads start, so that they need no imports. An error
    in the block kills them: files are written to temporary paths.
    """
    if not processes or sys.platform != "linux":
        yield None
        return
    others = set(multiprocessing.active_children())
    with start_workers():
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(processes, context, initialise_writer)
        pool.submit(int)  # starts all workers
    workers = set(multiprocessing.active_children()) - others
    try:
        yield pool
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def initialise_writer() -> None:
    """Prepare a process of `worker_pool`: it leaves signals to the main process, which kills it."""
    exit_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(WORKER_NICENESS)
    torch.set_num_threads(1)
    reuse_freed_memory()


@contextmanager
def start_workers() -> Iterator[None]:
    """Raise `InputError` if worker processes cannot be started, as without shared memory."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot start worker processes ({error.strerror or error}); use --num-workers 0, or "
            "give a container more shared memory (docker run --shm-size 1g)"
        ) from error


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise `InputError` if a process of `worker_pool` has died."""
    try:
        yield
    except BrokenProcessPool as error:
        raise InputError(
            "a process that writes results has died, probably for lack of memory; start the run "
            "again with --num-workers 0: finished work is kept"
        ) from error


def exit_with_parent(worker: int = 0) -> None:
    """Make a decoding worker exit silently with its run (a `worker_init_fn` of DataLoader).

    `timeout` and job schedulers send SIGTERM to all processes of a run. torch prints a traceback if
    the signal kills a worker, so the worker exits instead. If the run itself is killed, Linux kills
    its workers at once; on other systems torch ends them within 5 s, and until then they hold the
    lock of the result folder.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def reuse_freed_memory() -> None:
    """Make glibc reuse large freed buffers. No effect on other platforms.

    By default glibc returns buffers above 32 MiB to the system and gets new ones, whose pages the
    system clears. For an MLP's hidden layer, clearing those pages takes ten times as long as the
    GELU. (Some older versions of glibc ignore the thresholds.)
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MALLOC_THRESHOLD_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * MALLOC_THRESHOLD_BYTES - 1)  # the largest C int

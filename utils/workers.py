"""Worker processes that decode images or write results, and the memory that they reuse."""

import ctypes
import multiprocessing
import os
import platform
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from utils.errors import InputError, describe_error

WORKER_NICENESS = 5  # the encoder and the decoding workers go first
PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MALLOC_THRESHOLD_BYTES = 2**30  # glibc returns larger freed arrays to the system


@contextmanager
def worker_pool(processes: int) -> Iterator[Executor | None]:
    """Start worker processes that write results; None for 0, and where forking is not safe.

    They are forked at once, before CUDA and threads start, so that they need no imports. An error
    in the block kills them, which damages no file: all are first written to temporary paths.
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
    """Raise `InputError` if a process that decodes images or writes results has died."""
    try:
        yield
    except RuntimeError as error:
        writes = isinstance(error, BrokenProcessPool)
        if not writes and "DataLoader" not in str(error):
            raise
        decodes = f"decodes images has died or hangs ({describe_error(error)})"
        raise InputError(
            f"a process that {'writes results has died' if writes else decodes}, probably for lack "
            "of memory; start the run again with --num-workers 0: finished work is kept"
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

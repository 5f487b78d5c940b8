"""What is asked of the operating system for this process and its workers."""

import ctypes
import os
import platform
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT = 2**30  # bytes; a larger array is the system's again as soon as it is freed


def exit_with_parent(worker: int) -> None:
    """Have a worker end with its run, and without a word.

    `timeout` and job schedulers send SIGTERM to all processes of a run. A worker that dies of it
    would be a fault to torch, which tells of it while the run ends; one that exits is none.
    When the run is killed, Linux ends the worker at once, elsewhere torch does within 5 s; until
    then it keeps the lock of the result folder.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def reuse_freed_memory() -> None:
    """Have glibc keep what large arrays leave behind for the next ones; others are left as is.

    It would give an array of 32 MiB back to the system and get another, whose pages the system
    clears one by one: for the hidden layer of an MLP that takes ten times as long as its GELU.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * KEPT - 1)  # of a C int

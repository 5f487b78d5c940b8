"""Test that freed memory stays with the process."""

import platform
import resource
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from tests.scripts import CONTEXT
from utils.workers import reuse_freed_memory


def page_faults(reuse: bool) -> int:
    """Count the pages that the system clears for an array after a larger one was freed."""
    if reuse:
        reuse_freed_memory()
    torch.ones(65 * 2**20, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")
def test_a_large_array_reuses_the_memory_of_a_freed_one():
    counts = []
    for reuse in (True, False):
        with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
            counts.append(pool.submit(page_faults, reuse).result())
    assert counts[0] < 100 < counts[1]

"""What is asked of the operating system: memory that stays with the process."""

import platform
import subprocess
import sys

import pytest

from utils.files import PROJECT

SCRIPT = """
import resource
import torch
from utils.run.distributed import reuse_freed_memory
if {keep}:
    reuse_freed_memory()
torch.ones(65 * 2**20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(64 * 2**20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that a large array, after a larger one was freed, has the system prepare."""
    words = [sys.executable, "-c", SCRIPT.format(keep=keep)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switch")
def test_a_large_array_takes_the_place_of_one_that_was_freed():
    assert faults(keep=True) < 100 < faults(keep=False)

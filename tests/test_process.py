"""Test the demands on the machine: memory that stays with the process, and OpenCV's libraries."""

import platform
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from tests.conftest import PROJECT
from tests.scripts import CONTEXT
from utils.run.distributed import reuse_freed_memory


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


def test_an_opencv_without_its_libraries_is_one_sentence(tmp_path):
    """As opencv-python in a slim image; opencv-python-headless needs no libGL."""
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object')")
    code = f"import sys; sys.path[:0] = {[str(tmp_path), str(PROJECT)]}; import utils.files"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: OpenCV cannot be loaded (libGL.so.1")
    assert line.endswith("pip install opencv-python-headless")
    requirements = (PROJECT / "requirements.txt").read_text().splitlines()
    assert [name.split(">")[0] for name in requirements if name.startswith("opencv")] == [
        "opencv-python-headless"
    ]

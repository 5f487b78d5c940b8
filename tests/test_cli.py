import os
import subprocess
import sys

from utils.files import PROJECT


def test_a_reader_that_closes_the_pipe_ends_a_script_silently():
    read_end, write_end = os.pipe()
    os.close(read_end)  # as `| head` does once it has its lines
    words = [sys.executable, "datasets/mpdd.py", "--help"]
    done = subprocess.run(words, cwd=PROJECT, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert done.stderr == ""
    assert done.returncode in (0, 1)  # 0 if the option parser ignores it, as older versions do

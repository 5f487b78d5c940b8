import os
import subprocess
import sys
from pathlib import Path

from utils.cli import usage_error
from utils.files import PROJECT


def test_a_reader_that_closes_the_pipe_ends_a_script_silently():
    read_end, write_end = os.pipe()
    os.close(read_end)  # as `| head` does once it has its lines
    words = [sys.executable, "datasets/mpdd.py", "--help"]
    done = subprocess.run(words, cwd=PROJECT, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert done.stderr == ""
    assert done.returncode in (0, 1)  # 0 if the option parser ignores it, as older versions do


def test_a_value_that_is_not_understood_is_named_with_what_is_expected():
    for message, expected in (
        (
            "{None}|FLOAT could be instantiated from ['5%']",
            "--rate '5%': not a valid value; expect",
        ),
        ("INT could be instantiated from ['x']", "--rate 'x': not a valid value; expected INT; "),
    ):
        lines = f"\nError parsing --rate: no type matching {message}."
        assert usage_error(lines, Path("run.py"), ["rate"]).startswith(expected)

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_table, figure
from utils.cli import parse_options
from utils.errors import InputError
from utils.files import PROJECT


def test_a_wrong_option_names_the_script_by_its_path_in_the_project(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["figure.py", "--bogus"])
    with pytest.raises(InputError, match=r"; python tools/figure\.py --help lists all options$"):
        parse_options(figure.Options(), "", Path(figure.__file__))


@pytest.mark.parametrize("words", ["a.csv --dataset visa", "--dataset visa a.csv"])
def test_an_option_without_a_name_may_follow_any_other(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["check_table.py", *words.split()])
    options = parse_options(check_table.Options(Path()), "", Path(check_table.__file__))
    assert (options.table, options.dataset) == (Path("a.csv"), "visa")


@pytest.mark.parametrize("words", [["-h"], ["--bogus", "--help"]])
def test_help_is_shown_whatever_else_is_given(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["figure.py", *words])
    with pytest.raises(SystemExit) as end:
        parse_options(figure.Options(), "", Path(figure.__file__))
    assert end.value.code == 0
    assert "--cell" in capsys.readouterr().out


def test_a_reader_that_closes_the_pipe_ends_a_script_silently():
    read_end, write_end = os.pipe()
    os.close(read_end)  # as `| head` does once it has its lines
    words = [sys.executable, "datasets/mpdd.py", "--help"]
    done = subprocess.run(words, cwd=PROJECT, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert done.stderr == ""
    assert done.returncode in (0, 1)  # 0 if the option parser ignores it, as older versions do

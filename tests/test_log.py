"""Messages of a run: on the console, and in run.log."""

import time

import pytest

from utils.errors import InputError
from utils.log import log, log_to_console, log_to_file, progress_bar, suppress_output


def test_messages_are_printed_and_logged(tmp_path, capsys):
    with log_to_console(quiet=False), log_to_file(tmp_path / "run.log"):
        log.info("loading")
        log.debug("sha256")
    assert capsys.readouterr().out == "loading\n"
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["loading", "sha256"]


def test_quiet_prints_nothing_and_logs_everything(tmp_path, capsys):
    with log_to_console(quiet=True), log_to_file(tmp_path / "run.log"):
        log.info("loading")
    assert capsys.readouterr().out == ""
    assert "loading" in (tmp_path / "run.log").read_text()


def test_output_is_suppressed_only_where_asked(capsys):
    for quiet in (True, False):
        with suppress_output(quiet):
            print(f"quiet: {quiet}")
            list(progress_bar(range(1), desc=f"quiet: {quiet}"))
    printed = capsys.readouterr()
    assert printed.out == "quiet: False\n"
    assert "quiet: False" in printed.err and "quiet: True" not in printed.err


def test_runs_append_to_the_log_and_errors_are_logged(tmp_path):
    for number in (1, 2):
        with log_to_file(tmp_path / "run.log"):
            log.info(f"run {number}")
    with pytest.raises(InputError), log_to_file(tmp_path / "run.log"):
        raise InputError("no such file")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["run 1", "run 2", "error: no such file"]


def test_a_missing_folder_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match="choose another result folder"),
        log_to_file(tmp_path / "a/run.log"),
    ):
        pass


def test_a_progress_bar_in_a_file_is_drawn_rarely(capsys):
    for _ in progress_bar(range(5), desc="drawing"):
        time.sleep(0.12)  # a terminal would see each
    printed = capsys.readouterr().err
    assert "drawing: 100%" in printed
    assert printed.count("drawing") <= 2

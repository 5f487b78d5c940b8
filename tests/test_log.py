"""What a run says on the console, and what run.log keeps."""

import time

import pytest

from utils.errors import InputError
from utils.log import log, log_to_console, log_to_file, progress_bar, suppress_output


def test_messages_are_printed_and_kept(tmp_path, capsys):
    with log_to_console(quiet=False), log_to_file(tmp_path / "run.log"):
        log.info("loading")
    assert capsys.readouterr().out == "loading\n"
    assert (tmp_path / "run.log").read_text().endswith(" loading\n")


def test_quiet_prints_nothing_and_keeps_everything(tmp_path, capsys):
    with log_to_console(quiet=True), log_to_file(tmp_path / "run.log"):
        log.info("loading")
    assert capsys.readouterr().out == ""
    assert "loading" in (tmp_path / "run.log").read_text()


def test_silenced_holds_back_both_streams_only_if_told_to(capsys):
    for quiet in (True, False):
        with suppress_output(quiet):
            print(f"quiet: {quiet}")
            list(progress_bar(range(1), desc=f"quiet: {quiet}"))
    told = capsys.readouterr()
    assert told.out == "quiet: False\n"
    assert "quiet: False" in told.err and "quiet: True" not in told.err


def test_a_second_run_is_added_and_an_error_is_kept(tmp_path):
    for number in (1, 2):
        with log_to_file(tmp_path / "run.log"):
            log.info(f"run {number}")
    with pytest.raises(InputError), log_to_file(tmp_path / "run.log"):
        raise InputError("no such file")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["run 1", "run 2", "error: no such file"]


def test_a_folder_that_is_not_there_ends_in_a_sentence(tmp_path):
    with (
        pytest.raises(InputError, match="choose another folder"),
        log_to_file(tmp_path / "a/run.log"),
    ):
        pass


def test_a_bar_that_goes_to_a_file_is_not_drawn_over_and_over(capsys):
    for _ in progress_bar(range(5), desc="drawing"):
        time.sleep(0.12)  # a terminal would see each
    told = capsys.readouterr().err
    assert "drawing: 100%" in told
    assert told.count("drawing") <= 2

"""Runs of the demo that are killed, or whose disk is full: nothing is lost or half written."""

import itertools
import json
import os
import random
import re
import resource
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from datasets.demo import Options, make
from datasets.official import OFFICIAL
from tests import scripts
from tests.benches import contents
from tests.clips import write_config
from utils.results.scores import load_scores

KILLS = 6  # at moments spread over a run
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CATEGORIES = ("leather", "washer")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[str, ...]:
    """Render a part of the demo; return the options of a short run on it."""
    folder = tmp_path_factory.mktemp("interruptions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OFFICIAL, "demo", {name: OFFICIAL["demo"][name] for name in CATEGORIES})
        make(Options(folder / "raw", splits_folder=folder / "splits"))
    words = ["--data-root", folder / "raw", "--split", folder / "splits/demo.csv", "--limit", 1]
    words += ["--shots", 0, 1, "--seeds", 0, "--heatmap-size", 64, "--num-workers", 1]
    model = write_config(folder, "small", 240, 16, layers=2, width=32)
    words += ["--model", model, "--pretrained", "random"]
    return tuple(map(str, words))


def start(options: tuple[str, ...], result: Path, *more: object, **keywords) -> scripts.Script:
    return scripts.start("run_demo.py", *options, "--result-dir", result, *more, **keywords)


def workers_of(script: scripts.Script) -> list[Path]:
    """Return the /proc folders of the processes that a run has started."""
    children = Path(f"/proc/{script.process.pid}/task/{script.process.pid}/children")
    return [Path("/proc") / child for child in children.read_text().split()]


def check_files_are_whole(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for path in folder.rglob("*.npz"):
        load_scores(path)
    for path in folder.rglob("*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_files(options, tmp_path):
    start(options, tmp_path / "warm-up", "--help").finish()  # imports everything, once
    began = time.monotonic()
    undisturbed = start(options, tmp_path / "undisturbed").finish()
    seconds = time.monotonic() - began
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = contents(tmp_path / "undisturbed")
    dice = random.Random(7)
    moments = dice.sample([(step + dice.random()) / KILLS for step in range(KILLS)], KILLS)
    turns = itertools.count()
    result, workers = tmp_path / str(next(turns)), []
    while moments:
        fresh, began = not result.exists(), time.monotonic()
        script = start(options, result)
        script.process.join(0.9 * moments[-1] * seconds)
        killed = script.process.is_alive()
        if fresh and not killed:  # faster than the undisturbed run: kill earlier
            seconds = min(seconds, time.monotonic() - began)
        if killed:
            moments.pop()
            workers += workers_of(script)
            os.kill(script.process.pid, dice.choice(SIGNALS))
        done = script.finish()
        check_files_are_whole(result)
        assert killed or done.returncode == 0, done.stderr
        if done.returncode == 0:  # begin anew
            assert contents(result) == expected
            result = tmp_path / str(next(turns))
    last = start(options, result).finish()
    assert last.returncode == 0, last.stderr
    assert contents(result) == expected
    assert workers
    deadline = time.monotonic() + 30
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(worker.exists() for worker in workers)


def test_sigterm_to_all_processes_of_a_run_ends_it_with_one_line(options, tmp_path):
    """`timeout` and job schedulers send it so."""
    more = ("--limit", 4, "--num-workers", 2)
    script = start(options, tmp_path, *more, prepare=os.setsid)
    while script.process.is_alive() and not list(tmp_path.glob("done/*.json")):
        time.sleep(0.01)
    os.killpg(script.process.pid, signal.SIGTERM)
    done = script.finish()
    assert done.returncode == 128 + signal.SIGTERM
    sentence = r"interrupted; categories finished: [1-9]\d* of \d+; start the same command again .*"
    assert re.fullmatch(sentence, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


def limit_file_size(largest: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))


def test_a_full_disk_ends_the_run_and_it_resumes_with_room(options, tmp_path):
    serial = ("--num-workers", 0)  # shared memory would count as a large file
    full = start(options, tmp_path / "r", *serial, prepare=partial(limit_file_size, 100_000))
    done = full.finish()
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "File too large; free some space" in line
    assert str(tmp_path / "r") in line
    assert "Traceback" not in done.stderr
    check_files_are_whole(tmp_path / "r")
    assert start(options, tmp_path / "r").finish().returncode == 0
    assert (tmp_path / "r/summary.md").exists()


def test_a_log_that_cannot_be_written_ends_the_run(options, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/run.log").symlink_to("/dev/full")
    done = start(options, tmp_path / "r").finish()
    assert done.returncode == 1
    message = f"error: cannot write {tmp_path / 'r/run.log'}: No space left on device"
    assert message in done.stderr
    assert "Traceback" not in done.stderr

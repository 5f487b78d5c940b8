"""Runs of the demo that end at random moments, or on a full disk: nothing is lost or half done."""

import json
import multiprocessing
import os
import random
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets.demo import Options, make
from datasets.official import OFFICIAL
from tests.conftest import PROJECT
from utils.results.scores import load_scores

KILLS = 20
CATEGORIES = ("leather", "washer")
# A process that has imported everything: each run is a fork of it, and starts at once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["utils.run.benchmark", "datasets.demo"])


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[str, ...]:
    """Options of a short run of the demo, on pictures rendered for it."""
    folder = tmp_path_factory.mktemp("interruptions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OFFICIAL, "demo", {name: OFFICIAL["demo"][name] for name in CATEGORIES})
        make(Options(folder / "raw", splits_folder=folder / "splits"))
    words = ["--data-root", folder / "raw", "--split", folder / "splits/demo.csv", "--limit", 1]
    words += ["--shots", 0, 1, "--seeds", 0, "--heatmap-size", 64]
    return tuple(map(str, words))


def demo(words: tuple[str, ...], said: Path, largest: int = resource.RLIM_INFINITY) -> None:
    """What `python run_demo.py` does, with its output in a file; no file grows over `largest`."""
    stream = said.open("w")
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    multiprocessing.set_start_method("fork", force=True)  # as in a plain run: workers end with it
    sys.argv = ["run_demo.py", *words]
    runpy.run_path(str(PROJECT / "run_demo.py"), run_name="__main__")


def start(options: tuple[str, ...], result: Path, **more: int) -> multiprocessing.Process:
    said = result.with_suffix(".txt")
    workers = "0" if more else "1"  # shared memory would count as a large file
    words = (*options, "--result-dir", str(result), "--num-workers", workers)
    process = CONTEXT.Process(target=demo, args=(words, said), kwargs=more)
    process.start()
    return process


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a result folder but those that have times in them."""
    timed = ("settings.json", "run.log", "report.html", ".lock")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in timed]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def workers_of(process: multiprocessing.Process) -> list[Path]:
    """The processes that a run has started, as they stand in /proc."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [Path("/proc") / child for child in children.read_text().split()]


def check_whole(folder: Path) -> None:
    """Every file that is there can be read."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for path in folder.rglob("*.npz"):
        load_scores(path)
    for path in folder.rglob("*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")


@pytest.mark.slow
def test_a_run_killed_at_20_random_moments_ends_with_the_same_files(options, tmp_path):
    warm_up = CONTEXT.Process(target=int)  # what all runs are forks of imports everything first
    warm_up.start()
    warm_up.join()
    began = time.monotonic()
    undisturbed = start(options, tmp_path / "undisturbed")
    undisturbed.join()
    seconds = time.monotonic() - began
    assert undisturbed.exitcode == 0
    wanted = contents(tmp_path / "undisturbed")
    dice = random.Random(7)
    result, killed, turn, workers = tmp_path / "0", 0, 0, []
    while killed < KILLS:
        process = start(options, result)
        process.join(dice.uniform(0, 0.9 * seconds))
        assert process.exitcode in (None, 0), result.with_suffix(".txt").read_text()
        if process.is_alive():
            workers += workers_of(process)
            os.kill(process.pid, dice.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
            process.join()
            killed += process.exitcode != 0
            check_whole(result)
        if process.exitcode == 0:  # it was through: begin anew
            assert contents(result) == wanted
            turn += 1
            result = tmp_path / str(turn)
    last = start(options, result)
    last.join()
    assert last.exitcode == 0, result.with_suffix(".txt").read_text()
    assert contents(result) == wanted
    assert workers
    deadline = time.monotonic() + 30
    while any(worker.exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(worker.exists() for worker in workers)


def test_sigterm_to_all_processes_of_a_run_ends_it_with_one_line(options, tmp_path):
    """As `timeout` and job schedulers send it."""
    words = [sys.executable, "run_demo.py", *options, "--limit", "4", "--num-workers", "2"]
    process = subprocess.Popen(
        [*words, "--result-dir", str(tmp_path)],
        cwd=PROJECT,
        start_new_session=True,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not list(tmp_path.glob("done/*.json")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    told = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert told.splitlines()[-1] == "interrupted; what was finished is kept"
    assert "Traceback" not in told


def test_a_full_disk_ends_the_run_in_one_sentence_and_it_goes_on_with_room(options, tmp_path):
    full = start(options, tmp_path / "r", largest=100_000)
    full.join()
    told = (tmp_path / "r.txt").read_text()
    assert full.exitcode == 1, told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert "File too large; make room there" in line
    assert str(tmp_path / "r") in line
    assert "Traceback" not in told
    check_whole(tmp_path / "r")
    again = start(options, tmp_path / "r")
    again.join()
    assert again.exitcode == 0
    assert (tmp_path / "r/summary.md").exists()


def test_a_log_that_takes_no_more_ends_the_run_in_one_sentence(options, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/run.log").symlink_to("/dev/full")
    process = start(options, tmp_path / "r")
    process.join()
    told = (tmp_path / "r.txt").read_text()
    assert process.exitcode == 1
    assert f"error: cannot write {tmp_path / 'r/run.log'}: No space left on device" in told
    assert "Traceback" not in told

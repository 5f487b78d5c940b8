"""Several processes of one run, started by torchrun as a user does, on CPUs (gloo)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets import mvtec, visa
from datasets.prepare import Options, prepare
from models.device import resolve_device
from tests.clips import write_config
from tests.conftest import PROJECT
from tests.layouts import make_mvtec, make_visa
from utils.errors import InputError
from utils.run.benchmark import run
from utils.run.distributed import ALONE, Ranks
from utils.run.settings import Settings


def settings_for(folder: Path, dataset: str, root: Path, split: Path) -> Settings:
    return Settings(
        dataset=dataset,
        data_root=str(root),
        split=str(split),
        shots=(0, 1, 2),
        seeds=(0, 1),
        model=str(write_config(folder, "small-ranks", 240, 16, layers=2, width=32)),
        pretrained="random",
        num_workers=0,
        heatmaps=1,
        result_dir=str(folder / "alone"),
    )


@pytest.fixture(scope="module")
def square(tmp_path_factory) -> Settings:
    """Two categories of square images; what a plain run writes is there."""
    folder = tmp_path_factory.mktemp("ranks")
    root = make_mvtec(folder / "raw")
    options = Options(root, splits_folder=folder / "splits", allow_incomplete=True)
    settings = settings_for(folder, "mvtec", root, prepare(mvtec.MVTEC, options)[0])
    run(settings)
    return settings


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Settings:
    """One category of images that become several tiles; a plain run's results are there."""
    folder = tmp_path_factory.mktemp("ranks-wide")
    root = make_visa(folder / "raw", ["capsules"])
    options = Options(root, splits_folder=folder / "splits", allow_incomplete=True)
    settings = settings_for(folder, "visa", root, prepare(visa.visa("1cls"), options)[0])
    run(settings)
    return settings


def torchrun(
    processes: int, settings: Settings, *more: object, meet: tuple[str, ...] = ("--standalone",)
) -> list[str]:
    """The command line; `meet` says how its machines find each other."""
    script = {"mvtec": "run_winclip.py"}.get(settings.dataset, f"run_{settings.dataset}.py")
    words = [*meet, f"--nproc-per-node={processes}", PROJECT / script]
    for name in ("data_root", "split", "model", "pretrained", "result_dir", "num_workers"):
        words += [f"--{name.replace('_', '-')}", getattr(settings, name)]
    words += ["--heatmaps", settings.heatmaps, "--shots", *settings.shots]
    words += ["--seeds", *settings.seeds, *more]
    return [sys.executable, "-m", "torch.distributed.run", *map(str, words)]


def as_many_threads() -> dict[str, str]:
    """An environment in which each process has the threads of this one, for equal bits."""
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


def started(processes: int, settings: Settings, *more: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        torchrun(processes, settings, *more),
        env=as_many_threads(),
        capture_output=True,
        text=True,
        timeout=240,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a result folder but those that have times in them."""
    timed = ("settings.json", "run.log", "report.html", ".lock")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in timed]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def sentences(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_are_neighbours_that_differ_by_one_and_make_up_the_whole(count, world):
    shares = [Ranks(rank, world).share(range(count)) for rank in range(world)]
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_gets_back_what_it_gives():
    rows = torch.ones(2, 3)
    assert ALONE.gather("a") == ALONE.all_gather("a") == ["a"]
    assert ALONE.broadcast("a") == "a"
    assert ALONE.concatenate(rows) is rows


def test_two_processes_write_what_one_writes_and_speak_once(square):
    alone = Path(square.result_dir)
    done = started(2, replace(square, result_dir=str(alone.parent / "two")))
    assert done.returncode == 0, done.stderr
    assert contents(alone.parent / "two") == contents(alone)
    assert done.stdout.count("seconds per stage") == 1
    assert done.stdout.count("loading ") == 1
    record = json.loads((alone.parent / "two/settings.json").read_text())
    assert record["processes"] == 2


def test_two_machines_write_what_one_process_writes(square):
    alone = Path(square.result_dir)
    settings = replace(square, result_dir=str(alone.parent / "machines"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    meet = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}", "--rdzv-id=1")
    machines = [
        subprocess.Popen(
            torchrun(1, settings, meet=meet),
            env=as_many_threads(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    told = [machine.communicate(timeout=240)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told
    assert contents(alone.parent / "machines") == contents(alone)


def test_three_processes_share_tiles_and_a_rerun_goes_on_with_another_number(wide):
    alone = Path(wide.result_dir)
    other = replace(wide, result_dir=str(alone.parent / "three"))
    done = started(3, other)
    assert done.returncode == 0, done.stderr
    assert contents(alone.parent / "three") == contents(alone)
    (alone.parent / "three/done/capsules.json").unlink()
    (alone.parent / "three/scores/capsules.npz").write_bytes(b"half")
    run(other)
    assert contents(alone.parent / "three") == contents(alone)


def test_more_processes_than_images_have_nothing_to_do(square):
    few = replace(square, limit=1, categories=("bottle",), shots=(0, 1), seeds=(0,))
    alone = Path(square.result_dir).parent
    run(replace(few, result_dir=str(alone / "few")))
    more = ("--limit", 1, "--categories", "bottle")
    done = started(4, replace(few, result_dir=str(alone / "four")), *more)  # 2 images
    assert done.returncode == 0, done.stderr
    assert contents(alone / "four") == contents(alone / "few")


def test_a_mistake_is_said_once(square, tmp_path):
    there = replace(square, result_dir=str(tmp_path / "r"))
    unknown = started(2, there, "--categories", "bottel")
    assert len(sentences(unknown)) == 1
    assert "bottel" in sentences(unknown)[0]
    assert unknown.returncode == 1


def test_a_bad_image_of_the_last_process_ends_all_of_them_with_its_sentence(tmp_path):
    root = make_mvtec(tmp_path / "raw", ["bottle"])
    options = Options(root, splits_folder=tmp_path / "splits", allow_incomplete=True)
    settings = settings_for(tmp_path, "mvtec", root, prepare(mvtec.MVTEC, options)[0])
    last = sorted((root / "bottle/test").rglob("*.png"))[-1]
    last.write_bytes(b"")
    done = started(2, settings)
    assert done.returncode == 1
    assert len(sentences(done)) == 1
    assert last.name in sentences(done)[0]


def test_a_process_that_is_killed_ends_the_run(square, tmp_path):
    settings = replace(square, result_dir=str(tmp_path / "r"))
    process = subprocess.Popen(
        torchrun(2, settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    ranks = []
    while not (tmp_path / "r/run.log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ranks = [int(child) for child in children]
    os.kill(max(ranks), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "SIGKILL" in err or "exitcode: -9" in err.lower()


def test_processes_cannot_share_one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="cannot share one GPU"):
        Ranks(1, 3, 1).check_device("cuda:0")
    with pytest.raises(InputError, match="more processes than the 2 GPUs"):
        Ranks(2, 3, 2).check_device("auto")
    ALONE.check_device("cuda:1")


def test_the_deterministic_switch_sets_what_it_says(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        resolve_device("cpu", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        resolve_device("cpu")
    assert not torch.are_deterministic_algorithms_enabled()

"""Several processes of one run on CPUs (gloo), as torchrun starts them."""

import json
import os
import signal
import subprocess
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed.run
from torch.distributed import TCPStore

from datasets import mvtec
from datasets.prepare import Options, prepare
from models.clip.device import resolve_device
from tests import scripts
from tests.benches import contents
from tests.layouts import make_mvtec
from utils.distributed import torchrun
from utils.distributed.context import SINGLE_PROCESS, DistributedContext
from utils.distributed.torchrun import TorchrunContext
from utils.errors import InputError
from utils.experiment.settings import Settings
from utils.run.benchmark import run


def script_of(settings: Settings) -> str:
    return "run_winclip.py" if settings.dataset == "mvtec" else f"run_{settings.dataset}.py"


def options_of(settings: Settings, *more: object) -> list[str]:
    """Return the command line that gives these settings."""
    words = []
    for name in ("data_root", "split", "model", "pretrained", "result_dir", "num_workers"):
        words += [f"--{name.replace('_', '-')}", getattr(settings, name)]
    words += ["--heatmaps", settings.heatmaps, "--shots", *settings.shots]
    return [*map(str, [*words, "--seeds", *settings.seeds, *more])]


@pytest.fixture
def launch():
    """Start what torchrun starts: a process per rank, which meet in a store of the launcher."""
    stores = []

    def start(
        processes: int, settings: Settings, *more: object, machines: int = 1
    ) -> list[scripts.Script]:
        waits = {"timeout": timedelta(seconds=60), "wait_for_workers": False}
        stores.append(TCPStore("localhost", 0, is_master=True, **waits))
        environment = {
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(stores[-1].port),
            "WORLD_SIZE": str(processes),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
        words = options_of(settings, *more)
        ranks = [
            {"RANK": str(rank), "LOCAL_RANK": str(rank % (processes // machines))}
            for rank in range(processes)
        ]
        return [
            scripts.start(script_of(settings), *words, environment=environment | rank)
            for rank in ranks
        ]

    return start


def finish(started: list[scripts.Script]) -> subprocess.CompletedProcess:
    """Wait for all processes; return their joint output and the worst exit status."""
    done = [process.finish() for process in started]
    stdout, stderr = "".join(d.stdout for d in done), "".join(d.stderr for d in done)
    return subprocess.CompletedProcess((), max(d.returncode for d in done), stdout, stderr)


def error_lines(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shards_are_contiguous_and_differ_by_at_most_one(count, world):
    shares = [DistributedContext(rank, world).shard(range(count)) for rank in range(world)]
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_single_process_gets_back_what_it_sends():
    assert SINGLE_PROCESS.gather("a") == SINGLE_PROCESS.all_gather("a") == ["a"]
    assert SINGLE_PROCESS.broadcast("a") == "a"


def test_torchrun_gives_the_files_of_a_plain_run_and_prints_once(
    mvtec_result, mvtec_settings, tmp_path
):
    settings = replace(mvtec_settings, result_dir=str(tmp_path / "r"))
    words = ["--standalone", "--nproc-per-node=2", script_of(settings), *options_of(settings)]
    done = scripts.start(torch.distributed.run.__file__, *words).finish()
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "r") == contents(mvtec_result)
    assert done.stdout.count("results are in ") == 1
    assert done.stdout.count("loading ") == 1
    record = json.loads((tmp_path / "r/settings.json").read_text())
    assert record["processes"] == 2


def test_two_machines_give_the_files_of_a_plain_run(launch, mvtec_result, mvtec_settings, tmp_path):
    settings = replace(mvtec_settings, result_dir=str(tmp_path / "r"))
    done = finish(launch(2, settings, machines=2))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "r") == contents(mvtec_result)


def test_three_processes_share_tiles_and_one_process_resumes(
    launch, visa_result, visa_settings, tmp_path
):
    settings = replace(visa_settings, result_dir=str(tmp_path / "r"))
    done = finish(launch(3, settings))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "r") == contents(visa_result)
    (tmp_path / "r/done/capsules.json").unlink()
    (tmp_path / "r/scores/capsules.npz").write_bytes(b"half")
    run(settings)
    assert contents(tmp_path / "r") == contents(visa_result)


def test_processes_without_images_wait_for_the_others(launch, mvtec_settings, tmp_path):
    """Each process also keeps the features of its own images."""
    changes = {"limit": 1, "categories": ("bottle",), "shots": (0, 1), "seeds": (0,)}
    few = replace(mvtec_settings, heatmaps=1, features="keep", **changes)  # 3 test images
    run(replace(few, result_dir=str(tmp_path / "plain")))
    four = replace(few, result_dir=str(tmp_path / "four"))
    options = "--limit", 1, "--categories", "bottle"
    done = finish(launch(4, four, *options, "--features", "keep"))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "four") == contents(tmp_path / "plain")
    assert len(list((tmp_path / "four/features").rglob("*.png.safetensors"))) == 4
    (tmp_path / "four/done/bottle.json").unlink()
    (tmp_path / "four/scores/bottle.npz").unlink()
    done = finish(launch(2, four, *options))
    assert done.returncode == 0, done.stderr
    assert "features of 4 of 4 images are read" in done.stdout
    assert contents(tmp_path / "four") == contents(tmp_path / "plain")


def test_a_mistake_is_reported_once(launch, mvtec_settings, tmp_path):
    settings = replace(mvtec_settings, result_dir=str(tmp_path / "r"))
    done = finish(launch(2, settings, "--categories", "bottel"))
    assert len(error_lines(done)) == 1
    assert "bottel" in error_lines(done)[0]
    assert done.returncode == 1


def test_a_bad_image_of_the_last_process_ends_all_of_them(launch, mvtec_settings, tmp_path):
    root = make_mvtec(tmp_path / "raw", ["bottle"])
    options = Options(root, splits_folder=tmp_path / "splits", allow_incomplete=True)
    split, _ = prepare(mvtec.MVTEC, options)
    last = sorted((root / "bottle/test").rglob("*.png"))[-1]
    last.write_bytes(b"")
    settings = replace(mvtec_settings, data_root=str(root), split=str(split))
    done = finish(launch(2, replace(settings, result_dir=str(tmp_path / "r"))))
    assert done.returncode == 1
    assert len(error_lines(done)) == 1
    assert last.name in error_lines(done)[0]


def test_a_killed_process_ends_the_others(launch, mvtec_settings, tmp_path):
    first, second = launch(2, replace(mvtec_settings, result_dir=str(tmp_path / "r")))
    deadline = time.monotonic() + 90
    while not (tmp_path / "r/run.log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(second.process.pid, signal.SIGKILL)
    done = first.finish()
    assert done.returncode == 1
    (line,) = error_lines(done)
    assert "another process of this run has exited" in line


class FirstOfTwo(TorchrunContext):
    """The first of two processes, the other of which has claimed the GPU `other`."""

    other = ("machine", "uuid 1")

    def all_gather(self, value):
        return [value, self.other]


@pytest.mark.parametrize(
    ("local_rank", "visible", "selected"),
    [
        (0, ["uuid 0", "uuid 1"], 0),
        (0, ["uuid 0"], 0),  # as srun does: each process sees its own
        (3, ["uuid 3"], 0),
        (0, ["uuid 1"], None),  # that of the other process
        (1, ["uuid 1"], None),
        (2, ["uuid 1", "uuid 2"], None),
    ],
)
def test_processes_have_a_gpu_each(monkeypatch, local_rank, visible, selected):
    devices = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible))
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(torchrun, "gpu_identity", lambda index: ("machine", visible[index]))
    refused = pytest.raises(InputError, match="more processes than torch sees GPUs")
    with refused if selected is None else nullcontext():
        FirstOfTwo(0, 2, local_rank).claim_device("auto")
    assert selected in (None, *devices)


def test_processes_cannot_share_one_gpu(monkeypatch):
    with pytest.raises(InputError, match="cannot share one GPU"):
        TorchrunContext(1, 3, 1).claim_device("cuda:0")
    SINGLE_PROCESS.claim_device("cuda:1")


def test_deterministic_sets_torch_and_cublas(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        resolve_device("cpu", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        resolve_device("cpu")
    assert not torch.are_deterministic_algorithms_enabled()

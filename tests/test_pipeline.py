"""Test the work beside the encoder: decoding and writing processes, copies, clocks, heartbeats."""

import errno
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributed import TCPStore

from datasets.images import ImageDataset, Item
from models.clip.encoder import WindowedEncoder
from models.winclip import Features
from tests.reports import LABELS, new_folder, samples_of, scores_of, session_of
from utils import workers
from utils.category.panels import Target
from utils.category.result import CategoryResult
from utils.distributed import torchrun
from utils.distributed.torchrun import TorchrunContext, watch_peers
from utils.errors import InputError
from utils.experiment.plan import CategoryTask, plan_benchmark
from utils.experiment.settings import Settings
from utils.files import atomic_path
from utils.run import session, stream
from utils.run.benchmark import run
from utils.run.writer import MAX_WAITING, CategoryWriter
from utils.stopwatch import GPU, WORKERS, Stopwatch


@pytest.fixture
def with_workers(mvtec_settings, tmp_path) -> Settings:
    """Return the settings of a short run with one process of each kind."""
    changes = {"categories": ("bottle",), "shots": (0,), "heatmaps": 1, "num_workers": 1}
    return replace(mvtec_settings, **changes, result_dir=str(tmp_path / "r"))


def test_nothing_of_a_decoding_worker_outlives_its_batch(mvtec_settings):
    settings = replace(mvtec_settings, num_workers=1, batch_size=1).resolve()
    experiment = plan_benchmark(settings)
    shared = set(Path("/dev/shm").glob("torch_*"))
    items, descriptors = [], []
    for batch in stream.make_loader(settings, experiment, experiment.tasks, 240):
        items += batch
        descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
    assert len(items) > 10 and items[-1].mask.shape == (240, 240)
    assert max(descriptors) == descriptors[0]
    assert set(Path("/dev/shm").glob("torch_*")) <= shared


def test_previews_are_made_of_the_images_that_are_drawn(mvtec_settings):
    settings = replace(mvtec_settings, heatmaps=1, heatmap_size=64).resolve()
    experiment = plan_benchmark(settings)
    loader = stream.make_loader(settings, experiment, experiment.tasks, 240)
    previewed = {i.image for items in loader for i in items if i.preview is not None}
    assert previewed == {s.image for task in experiment.tasks for s in task.images_with_panel(1)}


def test_heatmaps_without_previews_are_the_same(with_workers, tmp_path, monkeypatch):
    settings = replace(with_workers, num_workers=0)
    run(settings)
    monkeypatch.setattr(stream, "PREVIEW_BYTES", 0)
    run(replace(settings, result_dir=str(tmp_path / "again")))
    panels = sorted((tmp_path / "r").rglob("*.png"))
    assert len(panels) == 3
    for panel in panels:
        again = tmp_path / "again" / panel.relative_to(tmp_path / "r")
        assert again.read_bytes() == panel.read_bytes()


def test_panels_of_some_images_are_those_of_all(mvtec_result, mvtec_settings, tmp_path):
    changes = {"heatmaps": 1, "num_workers": 1, "result_dir": str(tmp_path)}
    run(replace(mvtec_settings, **changes))
    panels = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")]
    assert len(panels) == 6
    for panel in panels:
        assert (tmp_path / panel).read_bytes() == (mvtec_result / panel).read_bytes()


def test_the_scores_of_some_images_are_theirs():
    scores = scores_of(samples_of("bottle", LABELS, "a"), (60, 60), 1)
    scores = replace(scores, tiles=np.array([(1, 2), (1, 1), (2, 2)] + [(0, 0)] * 4))
    some = scores.rows([2, 0])
    assert some.image.tolist() == scores.image[[2, 0]].tolist()
    assert some.tiles.tolist() == [[2, 2], [1, 2]]
    np.testing.assert_array_equal(some.image_scores, scores.image_scores[:, [2, 0]])
    np.testing.assert_array_equal(some.maps, scores.maps[:, [3, 4, 5, 6, 0, 1]])


@pytest.mark.parametrize(
    ("heatmaps", "expected"), [("none", []), (1, [[0, 3, 4]]), ("all", [[0, 1, 2], [3, 4, 5], [6]])]
)
def test_workers_get_only_the_images_that_they_draw(tmp_path, monkeypatch, heatmaps, expected):
    calls = []
    monkeypatch.setattr("utils.category.files.PANELS_PER_CALL", 3)
    monkeypatch.setattr(
        "utils.run.writer.store_call", lambda path, call: calls.append(pickle.dumps(call))
    )
    monkeypatch.setattr("utils.run.writer.call_stored", lambda path: ({"metrics": []}, {}))
    tests = samples_of("bottle", LABELS, "a")
    scores, masks = scores_of(tests, (60, 60), 1), [np.zeros((60, 60), bool)] * len(tests)
    result = CategoryResult(scores, masks, [b"a JPEG file"] * len(tests))
    with ThreadPoolExecutor(1) as pool:
        writing = replace(session_of(new_folder(tmp_path)), pool=pool)
        writing = replace(writing, settings=replace(writing.settings, heatmaps=heatmaps))
        with CategoryWriter(writing, lambda: None) as writer:
            writer.write(CategoryTask("bottle", [], [], tests), result)
    images = [[i for i, s in enumerate(tests) if s.image.encode() in call] for call in calls]
    assert images == [list(range(len(tests))), *expected]
    assert [b"a JPEG file" in call for call in calls] == [True] + [False] * len(expected)


def kill_this_process(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_decoding_worker_ends_the_run_with_one_sentence(with_workers, monkeypatch):
    monkeypatch.setattr(ImageDataset, "__getitem__", kill_this_process)
    with pytest.raises(InputError, match=r"decodes images has died .* --num-workers 0") as caught:
        run(with_workers)
    assert f"error: {caught.value}" in (with_workers.result_folder / "run.log").read_text()


def test_a_killed_writing_worker_ends_the_run_with_one_sentence(with_workers, monkeypatch):
    monkeypatch.setattr("utils.category.files.write_category", kill_this_process)
    with pytest.raises(InputError, match=r"writes results has died, probably.* --num-workers 0"):
        run(with_workers)
    assert not (with_workers.result_folder / "done").exists()


def test_the_mistake_of_a_writing_worker_is_that_of_the_run(with_workers):
    with_workers.result_folder.mkdir()
    (with_workers.result_folder / "scores").write_text("taken")
    with pytest.raises(InputError, match=r"cannot write .*scores"):
        run(with_workers)
    assert not (with_workers.result_folder / "done").exists()


def interrupt_the_run(*arguments: object) -> None:
    """Press Ctrl-C while a file is half written and a call waits for a worker."""
    (target,) = (value for value in arguments if isinstance(value, Target))
    with atomic_path(target.folder / "scores" / "bottle.npz"):
        while not (target.folder / ".bottle-1.part").exists():
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)


def test_an_interrupted_run_unlocks_its_folder_last_and_leaves_no_temporary_files(
    with_workers, monkeypatch
):
    alive, lock = [], session.lock_folder

    @contextmanager
    def observed_lock(path: Path) -> Iterator[None]:
        with lock(path):
            try:
                yield
            finally:
                assert len(list(path.rglob(".*.part"))) == 2  # of the NPZ, and of a call
                processes = multiprocessing.active_children()
                alive.extend(child for child in processes if not child.daemon)  # they write

    monkeypatch.setattr(session, "lock_folder", observed_lock)
    monkeypatch.setattr("utils.category.files.write_category", interrupt_the_run)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(with_workers)
    assert caught.value.sentence.startswith("interrupted; categories finished: 0 of 1; ")
    assert not alive
    assert not list(with_workers.result_folder.rglob(".*.part"))


def test_a_lack_of_shared_memory_is_one_sentence(with_workers, monkeypatch):
    def refuse(*_: object):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", refuse)
    with pytest.raises(InputError, match=r"No space left.*--num-workers 0.*--shm-size"):
        run(with_workers)


@pytest.mark.parametrize(
    ("batch_size", "tile", "advice"),
    [
        (3, 0, "--batch-size 1 or --precision fp16"),
        (1, 0, "use --precision"),
        (3, 48, "use --precision"),  # each batch is one image
    ],
)
def test_a_gpu_without_memory_is_one_sentence(with_workers, monkeypatch, batch_size, tile, advice):
    def fail(*_: object):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(WindowedEncoder, "encode_images", fail)
    with pytest.raises(InputError) as caught:
        run(replace(with_workers, num_workers=0, batch_size=batch_size, tile=tile))
    assert "CUDA out of memory. Tried to allocate 20.00 MiB." in str(caught.value)
    assert advice in str(caught.value)
    assert f"error: {caught.value}" in (with_workers.result_folder / "run.log").read_text()


@pytest.mark.parametrize(("tile", "images", "ahead"), [(0, 3, 2), (48, 1, 1)])
def test_few_images_are_decoded_ahead_where_tiles_make_them_large(
    visa_settings, tile, images, ahead
):
    settings = replace(visa_settings, tile=tile, num_workers=1).resolve()
    experiment = plan_benchmark(settings)
    loader = stream.make_loader(settings, experiment, experiment.tasks, 240)
    assert max(map(len, loader.batch_sampler)) == images
    assert loader.prefetch_factor == ahead
    assert {len(batch) for batch in loader} <= set(range(1, images + 1))
    serial = replace(settings, num_workers=0)
    assert stream.make_loader(serial, experiment, experiment.tasks, 240).prefetch_factor is None


def test_a_gpu_gets_a_bounded_number_of_tiles_at_once(monkeypatch):
    passes = []

    def encode(pixels: torch.Tensor) -> Features:
        passes.append(len(pixels))
        empty = torch.empty(len(pixels), 1, 1)
        return Features(empty[:, 0], (empty,), empty, (1, 1), (1,))

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    method = SimpleNamespace(device=torch.device("meta"), encode_images=encode)
    clip = SimpleNamespace(mean=(0.5,) * 3, std=(0.2,) * 3)
    mask = np.zeros((2, 2), bool)
    items = [
        Item(name, np.zeros((tiles, 3, 2, 2), np.uint8), (1, tiles), mask, (2, 2), b"")
        for name, tiles in (("a", 16), ("b", 16), ("c", 1), ("d", 40))
    ]
    feature_stream = stream.FeatureStream([items], clip, method, Stopwatch())
    batches = [[item.image for item in batch] for batch, _ in feature_stream.take(4)]
    assert batches == [["a", "b"], ["c"], ["d"]]
    assert passes == [32, 1, 32, 8]


class FakeEvent:
    """A CUDA event; the GPU finishes when `now` is advanced."""

    now = 0.0

    def __init__(self, enable_timing: bool = False):
        self.time = float("inf")

    def record(self) -> None:
        self.time = FakeEvent.now + 1

    def query(self) -> bool:
        return FakeEvent.now >= self.time

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1000 * (end.time - self.time)


def test_the_seconds_of_a_gpu_are_read_later_and_not_added_to_those_of_the_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "now", 0.0)
    clock = Stopwatch()
    clock.start -= 10
    with clock.stage("encode", torch.device("cuda")):
        FakeEvent.now += 5
    assert set(clock.seconds) == {"encode"}  # the GPU is still busy
    FakeEvent.now += 1
    clock.add({"metrics": 40.0}, WORKERS)
    lines = clock.table().splitlines()
    assert clock.seconds["encode" + GPU] == 5
    names = [line[:18].strip() for line in lines]
    assert names == ["encode", "other", "total", "metrics (workers)", "encode (GPU)"]
    assert "10.0 s  99" in lines[1] or "10.0 s 100" in lines[1]


def test_copies_to_the_host_have_the_values():
    scores, maps = torch.rand(2, 3), torch.rand(2, 3, 4)
    copies = stream.HostCopy(scores, maps).read()
    for tensor, copy in zip((scores, maps), copies, strict=True):
        np.testing.assert_array_equal(copy, tensor.numpy())
        assert not np.shares_memory(copy, tensor.numpy())  # which would be page-locked on a GPU


def test_at_most_two_categories_wait_and_all_are_finished_in_order(tmp_path, monkeypatch):
    gate, finished = threading.Event(), []

    def slow(*_: object) -> tuple[dict, dict]:
        gate.wait(10)
        return {"metrics": [], "references": []}, {"metrics": 1.0}

    monkeypatch.setattr("utils.run.writer.call_stored", slow)
    monkeypatch.setattr("utils.category.files.colour_ranges", lambda scores: {})
    folder = new_folder(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        session = replace(session_of(folder), pool=pool)
        writer = CategoryWriter(session, lambda: finished.append(sorted(folder.finished())))
        result = CategoryResult(None, [], [], [])
        for index, name in enumerate("abcd"):
            if index == MAX_WAITING:
                assert not finished
                gate.set()  # from here on, nothing can be submitted before something is finished
            writer.write(CategoryTask(name, [], [], []), result)
            assert len(writer.waiting) <= MAX_WAITING
        writer.finish_written(0)
    assert finished == [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]
    assert session.clock.seconds["metrics" + WORKERS] == 4


@pytest.mark.parametrize(
    ("names", "failing", "error", "expected"),
    [
        ("ab", "a", None, ("a", ["b"])),
        ("ab", "ab", None, ("a", [])),
        ("abc", "a", None, ("a", ["b", "c"])),  # raised while c is written
        ("ab", "", InputError("an image"), ("an image", ["a", "b"])),
        ("ab", "a", InputError("an image"), ("an image", ["b"])),
        ("ab", "ab", InputError("an image"), ("an image", [])),
    ],
)
def test_scored_categories_are_finished_and_the_first_error_is_raised(
    tmp_path, monkeypatch, names, failing, error, expected
):
    """The workers fail at the categories in `failing`, then the main process with `error`."""
    gate, folder = threading.Event(), new_folder(tmp_path)

    def write(path: Path) -> tuple[dict, dict]:
        gate.wait(10)
        if path.name[1] in failing:
            raise InputError(path.name[1])
        return {"metrics": [], "references": []}, {}

    monkeypatch.setattr("utils.run.writer.call_stored", write)
    monkeypatch.setattr("utils.category.files.colour_ranges", lambda scores: {})
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(InputError) as caught,
        CategoryWriter(replace(session_of(folder), pool=pool), list) as writer,
    ):
        for index, name in enumerate(names):
            if index == MAX_WAITING:
                gate.set()
            result = CategoryResult(None, [], [], [])
            writer.write(CategoryTask(name, [], [], []), result)
        gate.set()
        if error:
            raise error
    assert (str(caught.value), list(folder.finished())) == expected


@pytest.fixture
def silence_of_a_peer(monkeypatch):
    """Return a function that watches a peer which leaves or not; it returns the exit statuses."""
    statuses = []
    monkeypatch.setattr(torchrun, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(torchrun, "PEER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(torchrun.os, "_exit", statuses.append)

    def watch(beats: int, leaves: bool) -> list[int]:
        store = TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=5))
        with watch_peers(TorchrunContext(0, 2, 0, store)):
            for beat in range(beats):
                store.set("beat/1", str(beat))
                time.sleep(0.1)
            early = list(statuses)
            if leaves:
                store.set("left/1", "")
            deadline = time.monotonic() + (2 if leaves else 20)
            while not statuses and time.monotonic() < deadline:
                time.sleep(0.05)
        return early + statuses[:1]

    return watch


def test_a_silent_peer_ends_the_run_with_one_sentence(silence_of_a_peer, capfd):
    assert silence_of_a_peer(beats=10, leaves=False) == [1]
    assert "error: no heartbeat of process 1 of this run for 0.5 s" in capfd.readouterr().err


def test_a_peer_that_has_done_its_work_may_be_silent(silence_of_a_peer):
    assert silence_of_a_peer(beats=2, leaves=True) == []


def test_the_number_of_workers_follows_the_cores(mvtec_settings, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)), raising=False)
    automatic = replace(mvtec_settings, num_workers="auto")
    assert automatic.resolve().num_workers == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert automatic.resolve().num_workers == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert automatic.resolve().num_workers == 1
    assert replace(mvtec_settings, num_workers=0).resolve().num_workers == 0

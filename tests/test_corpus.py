"""Over 500 odd and bad files: each is read right, or refused in one sentence with its name."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFile

from datasets.decode import read_anomalous, read_image
from datasets.download import unpack
from datasets.references import read_references
from datasets.splits import read_split
from models.weights import find_file, load_clip, load_file
from tests import corpus, corpus_files
from tests.corpus import Case
from utils.errors import InputError
from utils.scores import load_scores

SECONDS = 5  # of a processor, for one case
BLOCKED = 60  # seconds of the clock: a reader that waits for something uses no processor


class Hang(BaseException):
    """No reader takes this for a fault of its file."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Ends what takes too long."""

    def stop(number, frame):
        raise Hang

    timers = (
        (signal.ITIMER_REAL, signal.SIGALRM, BLOCKED),
        (signal.ITIMER_PROF, signal.SIGPROF, SECONDS),
    )
    before = [(kind, signal.signal(kind, stop)) for _, kind, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        for kind, handler in before:
            signal.signal(kind, handler)


def check(case: Case, reader, folder: Path) -> None:
    """Have a case read; what comes back, or the sentence, must be right."""
    path = folder / case.name
    case.write(path)
    try:
        with time_limit():
            read = reader(path)
    except InputError as error:
        assert case.outcome != "read", error
        assert case.name in str(error)
        assert len(str(error).splitlines()) == 1
        assert "Traceback" not in str(error)
    else:
        assert case.outcome != "refused", "it was read"
        if case.wanted is not None:
            pixels = np.asarray(read)
            assert pixels.shape == case.wanted.shape
            assert np.abs(pixels.astype(float) - case.wanted).mean() <= case.tolerance
    assert not list(folder.rglob("canary*")), "foreign code was run"


def each(cases: list[Case]):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.label)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder, which is also where code of a hostile file would leave its mark."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@each(corpus.readable_images() + corpus.refused_images())
def test_an_image_is_read_right_or_refused(case, folder):
    check(case, lambda path: read_image(path, upright=True), folder)


@each(corpus.masks())
def test_a_mask_is_read_right_or_refused(case, folder):
    check(case, lambda path: read_anomalous(path, corpus.RGB.size), folder)


def test_half_an_image_is_never_taken_for_a_whole_one():
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@each(corpus_files.splits())
def test_a_split_is_read_or_refused(case, folder):
    check(case, read_split, folder)


@each(corpus_files.reference_lists())
def test_a_list_of_references_is_read_or_refused(case, folder):
    check(case, read_references, folder)


@each(corpus_files.score_files())
def test_a_score_file_is_read_or_refused(case, folder):
    check(case, load_scores, folder)


@each(corpus_files.archives())
def test_an_archive_is_unpacked_inside_its_folder_or_refused(case, folder):
    check(case, lambda path: unpack(path, folder / "in" / "data"), folder)
    inside = folder / "in" / "data"
    written = {path for path in folder.rglob("*") if path != folder / case.name}
    assert written <= {folder / "in", inside, *inside.rglob("*")}
    assert not any(path.is_symlink() for path in written)


@each(corpus_files.weight_files())
def test_a_weight_file_is_read_or_refused(case, folder):
    model = corpus_files.tiny_clip()
    check(case, lambda path: load_file(model, find_file("tiny", str(path), {}), "tiny"), folder)


@each(corpus_files.model_configs())
def test_a_model_config_is_read_or_refused(case, folder):
    check(case, lambda path: load_clip(str(path), "random"), folder)

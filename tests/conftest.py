import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

# Small models gain nothing from threads, which fight for the cores; processes that scripts start
# inherit this, so that their scores have the same bits. Must be set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
# Only a CPU gives the same bits each time, so the tests see no GPU; those of CUDA itself are run by
# `WINCLIP_TEST_CUDA=1 python -m pytest tests/test_cuda.py tests/test_cuda_runs.py`.
if os.environ.get("WINCLIP_TEST_CUDA") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import open_clip

from tests.benches import small_mvtec, small_visa
from utils.cli import GIVEN, OFFERED
from utils.experiment.settings import Settings
from utils.files import PROJECT
from utils.run.benchmark import run


@pytest.fixture(scope="session", autouse=True)
def one_tokenizer() -> Iterator[None]:
    """Build each tokenizer and encode each prompt once: both take longer than a small model."""
    build = open_clip.get_tokenizer

    @cache
    def build_once(*arguments: object, **options: object) -> object:
        tokenizer = build(*arguments, **options)
        tokenizer.encode = cache(tokenizer.encode)
        return tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "get_tokenizer", build_once)
        yield


@pytest.fixture(autouse=True)
def no_options() -> None:
    """Start each test without the options that an earlier one has parsed."""
    GIVEN.clear()
    OFFERED.clear()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the real benchmark images beside the project; skip the test elsewhere."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real benchmark images are not beside this checkout")
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return an empty folder, also the working directory, where hostile code would leave files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def mvtec_settings(tmp_path_factory) -> Settings:
    """Return the settings of a small MVTec AD; its result folder is that of `mvtec_result`."""
    return small_mvtec(tmp_path_factory.mktemp("mvtec") / "mit Leerzeichen")


@pytest.fixture(scope="session")
def mvtec_result(mvtec_settings) -> Path:
    """Return the result folder of a finished run; copy it before you change it."""
    run(mvtec_settings)
    return mvtec_settings.result_folder


@pytest.fixture(scope="session")
def visa_settings(tmp_path_factory, mvtec_settings) -> Settings:
    """Return the settings of a small VisA, whose images are not square."""
    return small_visa(tmp_path_factory.mktemp("visa"), mvtec_settings)


@pytest.fixture(scope="session")
def visa_result(visa_settings) -> Path:
    """Return the result folder of a finished run; copy it before you change it."""
    run(visa_settings)
    return visa_settings.result_folder

from pathlib import Path

import pytest

from utils.files import PROJECT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmark images beside the project; tests that need them are skipped elsewhere."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real benchmark images are not beside this checkout")
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder, which is also where code of a hostile file would leave its mark."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

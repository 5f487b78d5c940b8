import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datasets import mvtec
from datasets.download import Archive, fetch, unpack
from datasets.prepare import Options, prepare
from datasets.splits import read_split
from tests.layouts import make_mvtec
from utils.errors import InputError
from utils.files import sha256_of

BY_HAND = "get it by hand from the owner's page"


class Server:
    """Serve one file on loopback; `cut` limits the next answer to that many bytes."""

    def __init__(self, file: Path):
        self.file, self.cut, self.asked, self.ranges_work = file, None, [], True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *words):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/{file.name}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        byte_range = handler.headers.get("Range")
        self.asked.append(byte_range)
        if not handler.path.endswith(self.file.name):
            handler.send_error(404)
            return
        data = self.file.read_bytes()
        start = int(byte_range[len("bytes=") : -1]) if byte_range and self.ranges_work else 0
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        body = data[start:]
        if self.cut is not None:
            body, self.cut = body[: self.cut], None
        handler.wfile.write(body)


@pytest.fixture
def served(tmp_path):
    """A small MVTec AD in a .tar.xz, served on loopback, and its archive's description."""
    source = make_mvtec(tmp_path / "source", ["bottle"])
    file = tmp_path / "mvtec_small.tar.xz"
    with tarfile.open(file, "w:xz") as archive:
        archive.add(source, arcname=".")
    server = Server(file)
    archive = Archive((server.url,), sha256_of(file), file.stat().st_size, BY_HAND)
    yield server, archive
    server.http.shutdown()
    server.http.server_close()


def test_a_dataset_is_fetched_unpacked_and_prepared(served, tmp_path):
    server, archive = served
    options = Options(
        *(tmp_path / "new folder", True, *archive.urls),
        sha256=archive.sha256.upper(),
        allow_incomplete=True,
        splits_folder=tmp_path / "splits",
    )
    files = prepare(mvtec.MVTEC, options)
    assert len(read_split(files[0])) == 11
    assert server.asked == [None]


def test_a_checked_archive_is_not_fetched_again(served, tmp_path):
    server, archive = served
    first = fetch(archive, tmp_path / "data")
    assert fetch(archive, tmp_path / "data") == first
    assert len(server.asked) == 1


@pytest.mark.parametrize("ranges_work", [True, False])
def test_a_closed_connection_is_reported_and_resumed(served, tmp_path, ranges_work):
    server, archive = served
    server.cut, server.ranges_work = 5000, ranges_work
    with pytest.raises(InputError) as caught:
        fetch(archive, tmp_path / "data")
    assert f"closed after 5000 of {archive.size} bytes" in str(caught.value)
    assert BY_HAND in str(caught.value)
    partial = tmp_path / "data" / "mvtec_small.tar.xz.part"
    assert partial.stat().st_size == 5000
    whole = fetch(archive, tmp_path / "data")
    assert whole.read_bytes() == server.file.read_bytes()
    assert server.asked == [None, "bytes=5000-"]
    assert not partial.exists()


def test_a_closed_connection_is_reported_without_a_known_size(served, tmp_path):
    server, archive = served
    server.cut = 5000
    with pytest.raises(InputError, match="closed after 5000 of"):
        fetch(Archive(archive.urls, archive.sha256, None, BY_HAND), tmp_path / "data")


def test_a_wrong_checksum_is_never_unpacked(served, tmp_path):
    _, archive = served
    options = Options(
        *(tmp_path / "data", True, *archive.urls), sha256="0" * 64, splits_folder=tmp_path
    )
    with pytest.raises(InputError, match=r"has the sha256 .*, not 0000.*was not unpacked"):
        prepare(mvtec.MVTEC, options)
    left = [path.name for path in (tmp_path / "data").iterdir()]
    assert left == ["mvtec_small.tar.xz.wrong"]


@pytest.mark.parametrize("url", ["/gone.tar", "no address", "http://127.0.0.1:1/x.tar"])
def test_a_failing_address_ends_with_the_manual_steps(served, tmp_path, url):
    server, archive = served
    address = server.url.rsplit("/", 1)[0] + url if url.startswith("/") else url
    with pytest.raises(InputError) as caught:
        fetch(Archive((address,), archive.sha256, None, BY_HAND), tmp_path / "data")
    assert "could not be downloaded" in str(caught.value)
    assert "--url ADDRESS" in str(caught.value)
    assert "--archive FILE" in str(caught.value)
    assert BY_HAND in str(caught.value)
    assert ("the file has moved" in str(caught.value)) == url.startswith("/")


def test_the_next_address_is_tried(served, tmp_path):
    server, archive = served
    gone = server.url.rsplit("/", 1)[0] + "/gone/mvtec_small.tar.gz"
    archive = replace(archive, urls=(gone, "http://127.0.0.1:1/x.tar.gz", server.url))
    assert fetch(archive, tmp_path / "data").read_bytes() == server.file.read_bytes()
    with pytest.raises(InputError) as caught:
        fetch(replace(archive, urls=(gone, gone + "x")), tmp_path / "other")
    assert str(caught.value).count("could not be downloaded (HTTP Error 404") == 2


def test_a_file_of_another_size_is_refused_before_it_is_downloaded(served, tmp_path):
    _, archive = served
    with pytest.raises(InputError, match=f"offers {archive.size} bytes, not {archive.size + 1}"):
        fetch(replace(archive, size=archive.size + 1), tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_an_archive_on_disk_is_checked_and_unpacked(served, tmp_path):
    server, archive = served
    options = Options(
        *(tmp_path / "data", False, "", server.file, archive.sha256, True), splits_folder=tmp_path
    )
    assert len(read_split(prepare(mvtec.MVTEC, options)[0])) == 11
    assert server.asked == []
    assert server.file.exists()
    with pytest.raises(InputError, match=r"--archive: .* has the sha256 .* was not unpacked"):
        prepare(mvtec.MVTEC, replace(options, data_root=tmp_path / "new", sha256=""))
    with pytest.raises(InputError, match=r"--archive: there is no file gone\.tar"):
        prepare(mvtec.MVTEC, replace(options, archive=Path("gone.tar")))
    assert not (tmp_path / "new").exists()


def test_a_failed_download_describes_the_official_archive(tmp_path):
    options = Options(tmp_path, True, "http://127.0.0.1:1/mvtec.tar.xz", splits_folder=tmp_path)
    with pytest.raises(InputError) as caught:
        prepare(mvtec.MVTEC, options)
    assert "https://www.mvtec.com/company/research/datasets/mvtec-ad" in str(caught.value)
    assert "5,264,982,680 bytes" in str(caught.value)
    assert mvtec.SHA256 in str(caught.value)


def test_an_archive_with_a_hostile_member_is_not_unpacked_further(tmp_path):
    """test_corpus.py has many such archives, tar files and links among them."""
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("bottle/ok.txt", "../out.txt", "bottle/later.txt"):
            archive.writestr(name, "x")
    with pytest.raises(InputError, match=r"not unpacked further.* would leave the folder"):
        unpack(tmp_path / "evil.zip", tmp_path / "in" / "data")
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert files == {"evil.zip", "in/data/bottle/ok.txt"}


def test_a_zip_is_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.writestr("a/b.txt", "hello")
    unpack(tmp_path / "good.zip", tmp_path / "data")
    assert (tmp_path / "data/a/b.txt").read_text() == "hello"


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\xfd7zXZ\x00 broken"])
def test_a_file_that_is_not_an_archive_ends_in_one_sentence(tmp_path, content):
    (tmp_path / "broken.tar.xz").write_bytes(content)
    with pytest.raises(InputError, match="could not be unpacked"):
        unpack(tmp_path / "broken.tar.xz", tmp_path / "data")

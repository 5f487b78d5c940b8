"""Download the archive of a dataset and unpack it safely.

An interrupted download is resumed. An archive is unpacked only if its sha256 matches. Nothing is
written outside the target folder, whatever the names of the archive's members, and links are
refused.
"""

import http.client
import lzma
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from utils.errors import InputError, describe_error
from utils.files import CHUNK, is_printable_name, sha256_of
from utils.log import progress_bar

TIMEOUT = 60  # seconds without a byte from the server
MOVED_STATUSES = (403, 404, 410)  # of HTTP, for a file that its owner has moved or removed
# Raised by the readers for archives that are damaged, encrypted or of an unknown compression.
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, ValueError),
)


@dataclass(frozen=True)
class Archive:
    """The addresses of an archive and what it must contain; without any, how else to get it."""

    urls: tuple[str, ...] = ()  # of the same file, tried in this order
    sha256: str = ""  # hexadecimal
    size: int | None = None  # in bytes; None: use the Content-Length of the server
    by_hand: str = ""  # how to get the data without a download, as the end of a sentence


def fetch(archive: Archive, folder: Path) -> Path:
    """Download an archive into `folder` unless it exists, check its sha256, and return its path.

    An interrupted download stays as `<name>.part` and is resumed by the next address or call. A
    file with a wrong sha256 is renamed to `<name>.wrong`. Raise `InputError` if no address works,
    or if the sha256 is wrong.
    """
    target = folder / archive.urls[0].rstrip("/").rsplit("/", 1)[-1].split("?")[0]
    if not target.exists():
        download(archive, target)
    digest = sha256_of_archive(target)
    if digest != archive.sha256:
        wrong = target.with_name(f"{target.name}.wrong")
        target.replace(wrong)
        raise InputError(
            f"{wrong} has the sha256 {digest}, not {archive.sha256}, and was not unpacked; "
            f"delete it and try again, or {archive.by_hand}"
        )
    return target


def download(archive: Archive, target: Path) -> None:
    """Download `target` from the first address that works; raise `InputError` if none does."""
    partial = target.with_name(f"{target.name}.part")
    failures, moved = [], True
    for url in archive.urls:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            receive(url, archive.size, partial)
            partial.replace(target)
            return
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            failures.append(f"{url} could not be downloaded ({error})")
            moved = moved and getattr(error, "code", None) in MOVED_STATUSES
    advice = (
        "the file has moved; pass its new address as --url ADDRESS"
        if moved
        else "run the same command again to resume, pass another address as --url ADDRESS"
    )
    raise InputError(
        f"{'; '.join(failures)}; {advice}, pass an archive that you have as --archive FILE, or "
        f"{archive.by_hand}"
    )


def check_local(archive: Archive, file: Path) -> Path:
    """Check the sha256 of an archive on disk; raise `InputError` if it is missing or another."""
    if not file.is_file():
        raise InputError(f"--archive: there is no file {file}; give the archive of the dataset")
    if not archive.sha256:
        print(f"the sha256 of {file} is not checked: there is no official one")
        return file
    digest = sha256_of_archive(file)
    if digest != archive.sha256:
        raise InputError(
            f"--archive: {file} has the sha256 {digest}, not {archive.sha256}, and was not "
            f"unpacked; {archive.by_hand}, or pass --sha256 {digest} if you trust it"
        )
    return file


def sha256_of_archive(file: Path) -> str:
    """Return the sha256 of an archive, which takes some seconds, and say so."""
    print(f"checking the sha256 of {file}")
    return sha256_of(file)


def receive(url: str, size: int | None, partial: Path) -> None:
    """Download the rest of a file to `partial`; raise `OSError` if it is not of `size` bytes.

    Without a size, the server's Content-Length is used.
    """
    start = partial.stat().st_size if partial.exists() else 0
    if size is not None and start > size:
        partial.unlink()
        start = 0
    if start and start == size:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if start and response.status != http.client.PARTIAL_CONTENT:
            start = 0  # the server sends the whole file again
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else size
        if size is not None and total != size:
            raise OSError(f"the server offers {total} bytes, not {size}")
        bar = progress_bar(total=total, initial=start, unit="B", unit_scale=True, desc=partial.stem)
        with partial.open("ab" if start else "wb") as stream, bar:
            while chunk := response.read(CHUNK):
                stream.write(chunk)
                bar.update(len(chunk))
    received = partial.stat().st_size
    if total is not None and received < total:
        raise OSError(f"the connection was closed after {received} of {total} bytes")
    if total is not None and received > total:
        partial.unlink()
        raise OSError(f"the server sent {received} bytes, not {total}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar, .tar.xz, .tar.gz or .zip into `folder`.

    Check each member before it is written, so that nothing is written outside `folder`. Raise
    `InputError` for a damaged archive, a link, a device, or a path that leaves the folder.
    """
    try:
        with progress_bar(unit="B", unit_scale=True, desc=f"unpacking {archive.name}") as bar:
            for name, size, stream in members(archive):
                target = folder.joinpath(*safe_parts(name, archive))
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(stream, file, CHUNK)
                bar.update(size)
    except BROKEN as error:
        raise InputError(
            f"{archive} could not be unpacked ({describe_error(error)}); delete it and try again"
        ) from error


def members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and contents of each file in an archive; raise `InputError` for a link."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    with opened.open(info) as stream:
                        yield info.filename, info.file_size, stream
        return
    with tarfile.open(archive, "r:*") as opened:
        for member in opened:
            if member.isdir():
                continue
            if not member.isfile():
                raise hostile(archive, member.name, "is a link or a device")
            yield member.name, member.size, opened.extractfile(member)


def safe_parts(name: str, archive: Path) -> tuple[str, ...]:
    """Split the path of a member; raise `InputError` if it leaves the target folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise hostile(archive, name, "would leave the folder it is unpacked into")
    return path.parts


def hostile(archive: Path, name: str, why: str) -> InputError:
    """Describe a member that no author of a dataset would put into an archive."""
    shown = name if is_printable_name(name) else ascii(name)[1:-1]
    return InputError(
        f'{archive} was not unpacked further: its member "{shown}" {why}; delete the archive and '
        "download it from the dataset's own page"
    )

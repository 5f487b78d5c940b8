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
# Raised by the readers for archives that are damaged, encrypted or of an unknown compression.
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, ValueError),
)


@dataclass(frozen=True)
class Archive:
    """The address of an archive and what it must contain; without a URL, how else to get it."""

    url: str = ""
    sha256: str = ""  # hexadecimal
    size: int | None = None  # in bytes; None: use the Content-Length of the server
    by_hand: str = ""  # how to get the data without a download, as the end of a sentence


def fetch(archive: Archive, folder: Path) -> Path:
    """Download an archive into `folder` unless it exists, check its sha256, and return its path.

    An interrupted download stays as `<name>.part` and is resumed by the next call. A file with a
    wrong sha256 is renamed to `<name>.wrong`. Raise `InputError` in both cases.
    """
    target = folder / archive.url.rstrip("/").rsplit("/", 1)[-1].split("?")[0]
    partial = target.with_name(f"{target.name}.part")
    if not target.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            receive(archive, partial)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            raise InputError(
                f"{archive.url} could not be downloaded ({error}); run the same command again to "
                f"resume, or {archive.by_hand}"
            ) from error
        partial.replace(target)
    print(f"checking the sha256 of {target}")
    digest = sha256_of(target)
    if digest != archive.sha256:
        wrong = target.with_name(f"{target.name}.wrong")
        target.replace(wrong)
        raise InputError(
            f"{wrong} has the sha256 {digest}, not {archive.sha256}, and was not unpacked; "
            f"delete it and try again, or {archive.by_hand}"
        )
    return target


def receive(archive: Archive, partial: Path) -> None:
    """Download the rest of the archive to `partial`; raise `OSError` if bytes are missing."""
    start = partial.stat().st_size if partial.exists() else 0
    if archive.size is not None and start > archive.size:
        partial.unlink()
        start = 0
    if start and start == archive.size:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(archive.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if start and response.status != http.client.PARTIAL_CONTENT:
            start = 0  # the server sends the whole file again
        length = response.headers.get("Content-Length")
        total = archive.size or (start + int(length) if length else None)
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

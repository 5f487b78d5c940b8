"""Fetch a dataset's archive and unpack it: resumed where it broke off, checked before it is used.

An archive is used only when its size and sha256 are right. Nothing is written outside the target
folder, whatever the archive's members are called; links in an archive are refused.
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
# What the readers raise on archives that are damaged, encrypted or packed in an unknown way.
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, ValueError),
)


@dataclass(frozen=True)
class Archive:
    """Where an archive is, and what it must be."""

    url: str
    sha256: str  # in hexadecimal digits
    size: int | None  # in bytes; None: as the server says
    by_hand: str  # what to do when the address fails, as the end of a sentence


def fetch(archive: Archive, folder: Path) -> Path:
    """The archive as a checked file in `folder`: there already, resumed, or fetched whole.

    A download that broke off stays as `<name>.part` and is resumed by the next call. A file with
    a wrong sha256 is set aside as `<name>.wrong`. Both end in an `InputError`.
    """
    target = folder / archive.url.rstrip("/").rsplit("/", 1)[-1].split("?")[0]
    part = target.with_name(f"{target.name}.part")
    if not target.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            receive(archive, part)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            raise InputError(
                f"{archive.url} could not be fetched ({error}); run the same command again to go "
                f"on where it stopped, or {archive.by_hand}"
            ) from error
        part.replace(target)
    print(f"checking the sha256 of {target}")
    digest = sha256_of(target)
    if digest != archive.sha256:
        wrong = target.with_name(f"{target.name}.wrong")
        target.replace(wrong)
        raise InputError(
            f"{wrong} has the sha256 {digest}, not {archive.sha256}: it was not unpacked; delete "
            f"it and try again, or {archive.by_hand}"
        )
    return target


def receive(archive: Archive, part: Path) -> None:
    """Write the archive to `part`, from where an earlier call stopped."""
    start = part.stat().st_size if part.exists() else 0
    if archive.size is not None and start > archive.size:
        part.unlink()
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
        bar = progress_bar(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem)
        with part.open("ab" if start else "wb") as stream, bar:
            while chunk := response.read(CHUNK):
                stream.write(chunk)
                bar.update(len(chunk))
    received = part.stat().st_size
    if total is not None and received < total:
        raise OSError(f"the connection was cut after {received} of {total} bytes")
    if total is not None and received > total:
        part.unlink()
        raise OSError(f"the server sent {received} bytes, not {total}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar, .tar.xz, .tar.gz or .zip into `folder`; a hostile or broken one is an error.

    Members are checked one by one before they are written, so that nothing ever leaves `folder`.
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
            f"{archive} could not be unpacked ({describe_error(error)}); delete it and fetch it again"
        ) from error


def members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and contents of every file of an archive; anything else in it is refused."""
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
    """The parts of a member's path, which must stay below the folder it is unpacked into."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise hostile(archive, name, "would leave the folder it is unpacked into")
    return path.parts


def hostile(archive: Path, name: str, why: str) -> InputError:
    """The error for an archive that no dataset's author made."""
    shown = name if is_printable_name(name) else ascii(name)[1:-1]
    return InputError(
        f'{archive} was not unpacked further: its member "{shown}" {why}; delete the archive and '
        "fetch it from the dataset's own page"
    )

"""Paths, checksums, and files that are written completely or not at all."""

import hashlib
import os
import struct
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from isal import isal_zlib

from utils.errors import InputError

PROJECT = Path(__file__).resolve().parents[1]  # the root of the checkout
CHUNK = 1 << 20  # bytes read at a time for a checksum
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_GREY, PNG_RGB, PNG_FILTER_UP = 0, 2, 2  # as the PNG specification numbers them
cv2.setNumThreads(1)  # a forked worker process would wait for threads that only its parent has


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an error.

    Parent folders are created. A path that cannot be written is an `InputError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A short name, because `path.name` may have all the bytes that a file system allows.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; choose a folder that you may write to"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_current_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder, then start again: finished work is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 with \\n line ends, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write `pixels`, (H, W) grey or (H, W, 3) RGB uint8, to `path` as a PNG file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(pixels))


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode (H, W) grey or (H, W, 3) RGB uint8 as PNG, with the filter "up" on all lines.

    ISA-L compresses a heatmap's panel in a sixth of the time that OpenCV takes, and smaller.
    """
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    lines = np.empty((height, 1 + rows.shape[1]), np.uint8)
    lines[:, 0] = PNG_FILTER_UP
    lines[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    colour_type = PNG_GREY if pixels.ndim == 2 else PNG_RGB
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)  # 8 bits a channel
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(lines)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _current_umask() -> int:
    mask = os.umask(0)  # the umask can only be read by setting it
    os.umask(mask)
    return mask


def is_printable_name(name: str) -> bool:
    """Return whether a name is valid UTF-8 without control characters, so that tables can show it.

    >>> is_printable_name("größe 图像.png"), is_printable_name("a\\n.png")
    (True, False)
    >>> is_printable_name("\\udcff.png")
    False
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def user_path(given: str | Path) -> Path:
    """Expand a leading ~; the path of an unknown user is returned as given."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return Path(given)  # whoever opens it reports that it does not exist


def real_path(path: Path) -> Path:
    """Return the absolute path with links resolved; a loop of links is returned as given."""
    return Path(os.path.realpath(path))

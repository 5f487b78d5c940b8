"""Files that are there whole or not at all, and their checksums."""

import hashlib
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from utils.errors import InputError

PROJECT = Path(__file__).resolve().parents[1]  # the root of the checkout
PNG_LEVEL = 1  # 0 to 9; a higher level saves 5 % of a file and takes twice as long
CHUNK = 1 << 20  # bytes read at a time for a checksum


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it replaces `path` when the block ends without error.

    The parent folder is made if needed. A folder that cannot be written is an `InputError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; choose a folder that you may write to"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~current_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; make room there, or choose another "
            "folder; what was finished is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` with plain newlines to `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write `pixels`, (H, W) grey or (H, W, 3) RGB uint8, to `path` as a PNG file, atomically."""
    channels = pixels[..., ::-1] if pixels.ndim == 3 else pixels  # OpenCV expects BGR
    _, data = cv2.imencode(".png", channels, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def current_umask() -> int:
    """The process's umask: the permissions that a new file does not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_printable_name(name: str) -> bool:
    """Whether a name can stand in a table and on one line: UTF-8 without control characters.

    >>> is_printable_name("größe 图像.png"), is_printable_name("a\\n.png"), is_printable_name("\\udcff.png")
    (True, False, False)
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def user_path(given: str | Path) -> Path:
    """A path as a user writes it, with ~ for the home folder; an unknown user's ~ stays."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return Path(given)  # it is then not found, which its reader says


def real_path(path: Path) -> Path:
    """The path from the root on, without links; a loop of links stays, for its reader to find."""
    return Path(os.path.realpath(path))

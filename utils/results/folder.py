"""Manage a result folder: its settings and finished categories, never mixing different settings.

settings.json           everything that the run depends on (see `ResultFolder`), and its seconds
done/<category>.json    marks a finished category; written after all of its other files, so that a
                        category without it is scored again. Its keys:
    metrics             [category, shots, seed, metric, value in [0, 1]]; null: no seed, undefined
    references          [category, shots, seed, image path] of every run's reference images
    leave_one_out       image score of each reference image against the others; custom images only
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from string import hexdigits

import torch
from filelock import FileLock, Timeout

from utils.errors import ANOTHER_FOLDER, InputError
from utils.files import PROJECT, write_text
from utils.stopwatch import Stopwatch

MAX_LIST = 8  # entries of a list that an error message shows
PACKAGES = ("torch", "open_clip_torch", "numpy", "pandas", "pillow", "opencv-python")


class ResultFolder:
    """The result folder of one run.

    `record` becomes settings.json: title, categories (all of the benchmark), settings, notes,
    weights, device, processes. The class adds fingerprint, versions, git_revision, started, seconds
    (per stage, summed over all runs that wrote to the folder; a stopped run counts up to its last
    finished category) and seconds_total. Raises `InputError` if the folder was made with another
    `fingerprint`.
    """

    def __init__(self, path: Path, record: dict, fingerprint: dict):
        self.path = path
        self.record = record | {
            "fingerprint": json.loads(json.dumps(fingerprint)),
            "git_revision": git_revision(),
            "versions": {name: version(name) for name in PACKAGES}
            | {"python": platform.python_version(), "platform": platform.platform()},
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": {},
            "seconds_total": 0.0,
        }
        file = path / "settings.json"
        if file.exists():
            earlier = read_json(file, "fingerprint", "started", "seconds", "seconds_total")
            self._refuse_to_mix(earlier["fingerprint"])
            self.record |= {name: earlier[name] for name in ("started", "seconds", "seconds_total")}
        elif self.finished():
            raise InputError(
                f"{path} has finished categories but no settings.json that says how they were "
                f"made; choose {ANOTHER_FOLDER}, or delete this one"
            )
        self._write_record()

    def _refuse_to_mix(self, earlier: dict) -> None:
        current = self.record["fingerprint"]
        names = [name for name in current | earlier if current.get(name) != earlier.get(name)]
        if names:
            changes = "; ".join(
                describe_change(name, earlier.get(name), current.get(name)) for name in names
            )
            raise InputError(
                f"{self.path} holds results of other settings ({changes}); choose "
                f"{ANOTHER_FOLDER}, or delete this one"
            )

    def _write_record(self) -> None:
        text = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
        write_text(self.path / "settings.json", text)

    def write_times(self, clock: Stopwatch) -> None:
        """Record the seconds so far in settings.json."""
        self.record |= {"seconds": clock.seconds, "seconds_total": clock.total()}
        self._write_record()

    def earlier_times(self) -> tuple[dict[str, float], float]:
        """Return the seconds of earlier runs into the folder: per stage, and in total."""
        return self.record["seconds"], self.record["seconds_total"]

    def finish(self, category: str, record: dict) -> None:
        """Mark a category as finished; all of its other files must have been written."""
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        write_text(self.path / "done" / f"{category}.json", text)

    def finished(self) -> dict[str, dict]:
        """Return the records of the finished categories, sorted by name."""
        return read_finished(self.path)


def read_finished(path: Path) -> dict[str, dict]:
    """Read done/*.json of the result folder `path`: category to record, sorted by name."""
    files = sorted((path / "done").glob("*.json"))
    return {file.stem: read_json(file, "metrics", "references") for file in files}


def read_json(path: Path, *keys: str) -> dict:
    """Read a JSON object that a run wrote; raise `InputError` if it is damaged or lacks `keys`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not content.keys() >= set(keys):
            raise ValueError("keys are missing")
        return content
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} is not a result folder: it has no {path.name}; give the folder of a run"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged, or was not written by a run of this version; delete it, or choose "
            f"{ANOTHER_FOLDER}"
        ) from error


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Lock a result folder for one live run, and delete temporary files of a killed run.

    The lock ends with the process, however it ends. A locked folder is an `InputError`.
    """
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{path} is in use by another run; wait for it to end, or choose {ANOTHER_FOLDER}"
        ) from error
    try:
        if (path / "settings.json").exists():  # it is a result folder
            for partial in path.rglob(".*.part"):
                partial.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def check_writable(path: Path) -> None:
    """Create the folder `path`; raise `InputError` if no file can be created in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"RESULT_DIR: cannot write to {path} ({error.strerror}); choose {ANOTHER_FOLDER}"
        ) from error


def describe_change(name: str, earlier: object, current: object) -> str:
    """Describe in a few words how an entry of the fingerprint differs.

    >>> describe_change("masks", "", "good")
    'masks: was "", now good'
    >>> describe_change("files", ["a"] * 15, ["a"] * 16)
    'files: was a list of 15, now of 16'
    >>> describe_change("files", ["a"] * 15, ["b"] * 15)
    'files: a different list of 15'
    """
    lists = isinstance(earlier, list) and isinstance(current, list)
    if lists and max(len(earlier), len(current)) > MAX_LIST:
        if len(earlier) == len(current):
            return f"{name}: a different list of {len(current)}"
        return f"{name}: was a list of {len(earlier)}, now of {len(current)}"
    return f"{name}: was {abbreviate(earlier)}, now {abbreviate(current)}"


def abbreviate(value: object) -> str:
    """Return a value as text for a message; checksums are cut to their first digits."""
    if isinstance(value, list):
        return f"[{', '.join(map(abbreviate, value))}]"
    is_checksum = isinstance(value, str) and len(value) == 64 and not set(value) - set(hexdigits)
    return f"{value[:8]}..." if is_checksum else str(value) or '""'


def git_revision() -> str:
    """Return the project's commit, with "+changes" if files differ from it; else "unknown"."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PROJECT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe_device(device: torch.device) -> str:
    """Return the name of the GPU, or the CPU's threads and instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"

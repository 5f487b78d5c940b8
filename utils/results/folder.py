"""A result folder: what it was made with, which categories are done, and never two runs mixed.

settings.json             all settings, versions, checksums, seconds per stage of all runs: of one
                          that was stopped, up to the last category that it finished
done/<category>.json      results of a finished category: written last, so that a category without
                          it is run again
  metrics                 list of [category, shots, seed, metric, value]: value in [0, 1], null if
                          undefined; seed null for 0 shots; empty if an image has no label
  references              list of [category, shots, seed, image]: the reference images of each run
  leave_one_out           optional list: image score of each reference against the others
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from string import hexdigits

import torch
from filelock import FileLock, Timeout

from utils.errors import ANOTHER_FOLDER, InputError
from utils.files import PROJECT, write_text
from utils.run.settings import Settings
from utils.stopwatch import Stopwatch

SHOWN = 8  # entries of a list that a message shows
PACKAGES = ("torch", "open_clip_torch", "numpy", "pandas", "pillow", "opencv-python")


class ResultFolder:
    """The result folder of one run; opening it checks that it holds nothing of another run."""

    def __init__(self, path: Path, settings: Settings, identity: dict, notes: list[str]):
        self.path = path
        self.record = {
            "settings": asdict(settings),
            "identity": json.loads(json.dumps(identity)),
            "notes": notes,
            "git_revision": git_revision(),
            "versions": {name: version(name) for name in PACKAGES}
            | {"python": platform.python_version(), "platform": platform.platform()},
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": {},
            "seconds_total": 0.0,
        }
        file = path / "settings.json"
        if file.exists():
            earlier = read_json(file, "identity")
            self._refuse_to_mix(earlier["identity"])
            times = ("started", "seconds", "seconds_total")
            self.record |= {name: earlier[name] for name in times if name in earlier}
        elif self.finished():
            raise InputError(
                f"{path} has finished categories but no settings.json that says how they were "
                f"made; choose {ANOTHER_FOLDER}, or delete that folder"
            )
        self.write_settings()

    def _refuse_to_mix(self, there: dict) -> None:
        """End the run if the folder was made with settings that give other numbers."""
        here = self.record["identity"]
        names = [name for name in here | there if here.get(name) != there.get(name)]
        if names:
            told = "; ".join(
                describe_change(name, there.get(name), here.get(name)) for name in names
            )
            raise InputError(
                f"{self.path} holds results made with other settings ({told}); choose "
                f"{ANOTHER_FOLDER}, or delete that folder"
            )

    def write_settings(self, **more) -> None:
        """Write settings.json, with `more` entries added to the record."""
        self.record |= more
        text = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
        write_text(self.path / "settings.json", text)

    def write_times(self, clock: Stopwatch) -> None:
        """Record the seconds so far."""
        self.write_settings(seconds=clock.seconds, seconds_total=clock.total())

    def earlier_times(self) -> tuple[dict[str, float], float]:
        """The seconds per stage of earlier runs into the folder, and in all."""
        return self.record["seconds"], self.record["seconds_total"]

    def finish(self, category: str, record: dict) -> None:
        """Mark a category as done; everything else of it must be written before."""
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        write_text(self.path / "done" / f"{category}.json", text)

    def finished(self) -> dict[str, dict]:
        """The records of the finished categories, sorted by name."""
        return read_finished(self.path)


def read_finished(path: Path) -> dict[str, dict]:
    """Read done/*.json of the result folder `path`: category to record, sorted by name."""
    files = sorted((path / "done").glob("*.json"))
    return {file.stem: read_json(file, "metrics", "references") for file in files}


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Keep a result folder to one live run; the lock ends with the process, however it ends.

    What a killed run left half written is taken away.
    """
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{path} is in use by another run; wait for it to end, or choose {ANOTHER_FOLDER}"
        ) from error
    try:
        for left in path.rglob(".*.part"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def check_writable(path: Path) -> None:
    """Make the folder `path`; an `InputError` if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"RESULT_DIR: cannot write into {path} ({error.strerror}); choose {ANOTHER_FOLDER}"
        ) from error


def read_json(path: Path, *entries: str) -> dict:
    """Read a file that a run wrote; a damaged one, or one without `entries`, is an `InputError`."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); delete it, or choose {ANOTHER_FOLDER}"
        ) from error
    if not isinstance(there, dict) or not set(entries) <= there.keys():
        raise InputError(f"{path} is not what a run writes; delete it, or choose {ANOTHER_FOLDER}")
    return there


def describe_change(name: str, there: object, here: object) -> str:
    """How an entry of the identity differs, in a few words.

    >>> describe_change("masks", "", "good"), describe_change("files", ["a"] * 15, ["a"] * 16)
    ('masks: "" there, good now', 'files: 15 there, 16 now')
    >>> describe_change("files", ["a"] * 15, ["b"] * 15)
    'files: not the same 15'
    """
    if isinstance(there, list) and isinstance(here, list) and max(len(there), len(here)) > SHOWN:
        if len(there) == len(here):
            return f"{name}: not the same {len(here)}"
        return f"{name}: {len(there)} there, {len(here)} now"
    return f"{name}: {in_brief(there)} there, {in_brief(here)} now"


def in_brief(value: object) -> str:
    """A value for a message: of a checksum, the first digits."""
    if isinstance(value, list):
        return f"[{', '.join(map(in_brief, value))}]"
    is_checksum = isinstance(value, str) and len(value) == 64 and not set(value) - set(hexdigits)
    return f"{value[:8]}..." if is_checksum else str(value) or '""'


def git_revision() -> str:
    """The project's commit, with "+changes" for an edited tree; "unknown" outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe_device(device: torch.device) -> str:
    """The device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"

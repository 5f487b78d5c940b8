"""Manage a result folder: its settings and finished categories, never mixing different settings.

settings.json           everything that the run depends on (see `ResultFolder`), and its seconds
done/<category>.json    marks a finished category; written after all of its other files, so that a
                        category without it is scored again. Its keys:
    metrics             [category, shots, seed, metric, value in [0, 1]]; null: no seed, undefined
    references          [category, shots, seed, image path] of every run's reference images
    pixel_threshold     map value of the pixel F1-max in the run with the most shots, or null
    leave_one_out       image score of each reference image against the others; custom images only
    leave_one_out_peaks     the highest value of the map of each, likewise
    panel_threshold     the threshold that the heatmap panels show; custom images only
"""

import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from string import hexdigits
from typing import TYPE_CHECKING

import cv2
from filelock import FileLock, Timeout

from utils.cli import label, offers
from utils.errors import ANOTHER_FOLDER, InputError
from utils.files import PROJECT, write_text
from utils.log import log

if TYPE_CHECKING:  # it loads torch
    from utils.stopwatch import Stopwatch

MAX_CHANGES = 2  # changed settings that an error message describes
MAX_NAMES = 3  # images that it names
# Left out of the fingerprint at these values: folders from before these settings lack them.
LATER_SETTINGS = {"method": "winclip", "maps": True, "extra_metrics": False, "multi_crop": "none"}
MAPS_ONLY = ("scales", "eval_size", "extra_metrics")  # not in the fingerprint without maps
BEFORE_RESULTS = {"settings.json", "run.log", ".lock"}  # written before a category is scored
FEATURES_FOLDER = "features"  # of kept features, in a result folder
FEATURES_JSON = "features.json"  # in that folder; without it, there are no features
TIMES = ("started", "seconds", "seconds_total")  # entries of settings.json that are kept on resume
PACKAGES = ("torch", "open_clip_torch", "numpy", "pandas", "pillow")


class ResultFolder:
    """The result folder of one run.

    `record` becomes settings.json: title, categories (all of the benchmark), draws_references,
    settings, notes, weights, device, processes. The class adds fingerprint, versions,
    git_revision, started, seconds (per stage, summed over all runs that wrote to the folder; a
    stopped run counts up to its last finished category) and seconds_total. Raises `InputError` if
    the folder holds results of another `fingerprint`.
    """

    def __init__(self, path: Path, record: dict, fingerprint: dict):
        self.path = path
        self.record = record | {
            "fingerprint": json.loads(json.dumps(fingerprint)),
            "git_revision": git_revision(),
            "versions": {name: version(name) for name in PACKAGES}
            | {"opencv": cv2.__version__}  # of opencv-python-headless, or of another build
            | {"python": platform.python_version(), "platform": platform.platform()},
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": {},
            "seconds_total": 0.0,
        }
        file = path / "settings.json"
        if file.exists():
            earlier = read_json(file, "fingerprint", "settings", *TIMES)
            changes = self._changes_since(earlier)
            if changes and holds_results(path):
                self._refuse_to_mix(earlier, changes)
            elif changes:
                text = summarise_changes(changes)
                log.info(f"{path} holds no results yet, so the run starts anew: {text}")
            else:
                self.record |= {name: earlier[name] for name in TIMES}
        elif self.finished():
            raise InputError(
                f"{path} has finished categories but no settings.json that says how they were "
                f"made; choose {ANOTHER_FOLDER}"
            )
        self._write_record()

    def _changes_since(self, earlier: dict) -> list[str]:
        fingerprints = earlier["fingerprint"], self.record["fingerprint"]
        changes = describe_changes(*fingerprints, self.record["settings"])
        protocols = [record["settings"].get("protocol") for record in (earlier, self.record)]
        if changes and protocols[0] != protocols[1]:  # it stands for several settings
            changes.insert(0, describe_change("--protocol", *protocols))
        return changes

    def _refuse_to_mix(self, earlier: dict, changes: Sequence[str]) -> None:
        records = earlier, self.record
        before, now = (record["fingerprint"].get("images", {}).items() for record in records)
        only_new = "; to score only the new images, give a folder that holds only them"
        hint = only_new if before < now else ""
        raise InputError(
            f"{summarise_changes(changes)}: choose {ANOTHER_FOLDER}"
            f"{alternative_to_another_folder(self.path)}{hint}"
        )

    def _write_record(self) -> None:
        text = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
        write_text(self.path / "settings.json", text)

    def write_times(self, clock: "Stopwatch") -> None:
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


def holds_results(path: Path) -> bool:
    """Return whether a result folder holds more than a run writes before its first result."""
    return any(file.name not in BEFORE_RESULTS for file in path.iterdir())


def alternative_to_another_folder(path: Path) -> str:
    """Suggest what else to do about results of other settings; never to delete kept features."""
    features = Path(FEATURES_FOLDER, FEATURES_JSON)
    if offers("features") and (path / features).exists():
        return f" (with --features {path} to use the features kept there)"
    if (path / features).exists() or any(path.glob(f"*/{features}")):
        return ", or undo the change"
    return f", or delete {path}, which holds the results from before"


def read_finished(path: Path) -> dict[str, dict]:
    """Read done/*.json of the result folder `path`: category to record, sorted by name."""
    files = sorted((path / "done").glob("*.json"))
    return {file.stem: read_json(file, "metrics", "references") for file in files}


def read_record(path: Path) -> dict:
    """Read settings.json of the result folder `path`; see `ResultFolder` for its content."""
    return read_json(path / "settings.json", "title", "categories", "settings", "notes")


def read_json(path: Path, *keys: str) -> dict:
    """Read a JSON object that a run wrote; raise `InputError` if it is damaged or lacks `keys`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not content.keys() >= set(keys):
            raise ValueError("keys are missing")
        return content
    except FileNotFoundError as error:
        raise InputError(
            f"there is no {path}; give the result folder of a run, or start the run again"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged, or was not written by a run of this version; delete it and start "
            "the run again, or use another result folder"
        ) from error


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Lock a result folder for one live run; delete temporary files of interrupted runs.

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
        delete_partial_files(path)  # of a run that could not do so itself
        yield
    except BaseException:
        delete_partial_files(path)
        raise
    finally:
        lock.release()


def delete_partial_files(path: Path) -> None:
    """Delete the temporary files in `path` if it is a result folder."""
    if (path / "settings.json").exists():
        for partial in path.rglob(".*.part"):
            partial.unlink(missing_ok=True)


def check_writable(path: Path, keep: bool = True) -> None:
    """Create the folder `path`; raise `InputError` if no file can be created in it.

    Without `keep`, folders that did not exist before are deleted again.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
        for folder in [] if keep else missing:
            folder.rmdir()
    except OSError as error:
        fault = f"cannot write to {path} ({error.strerror})"
        if path.is_file():
            fault = f"{path} is a file, not a folder"
        raise InputError(f"{label('result_dir')}: {fault}; choose {ANOTHER_FOLDER}") from error


def describe_changes(earlier: dict, current: dict, options: Collection[str]) -> list[str]:
    """Describe how two fingerprints differ, in the names of the `options` of the command line.

    Entries about images that were added or removed are described once, under "images", and those
    that follow from "maps" not at all.
    """
    renewed = earlier.get("images", {}).keys() ^ current.get("images", {}).keys()
    maps = [entries.get("maps", LATER_SETTINGS["maps"]) for entries in (earlier, current)]
    implied = MAPS_ONLY if maps[0] != maps[1] else ()
    changes = []
    for name in dict.fromkeys(("images", *current, *earlier)):
        if name in implied:
            continue
        default = LATER_SETTINGS.get(name)
        values = earlier.get(name, default), current.get(name, default)
        if all(isinstance(value, dict) for value in values):
            if name != "images":
                values = [{k: v for k, v in d.items() if k not in renewed} for d in values]
        elif name in options:
            name = f"--{name.replace('_', '-')}"
        if values[0] != values[1]:
            changes.append(describe_change(name, *values))
    return changes


def summarise_changes(changes: Sequence[str]) -> str:
    """Join the first MAX_CHANGES of the `describe_changes`, and count the others."""
    more = len(changes) - MAX_CHANGES
    return "; ".join(changes[:MAX_CHANGES]) + (
        f"; {more} more settings or inputs changed" if more > 0 else ""
    )


def describe_change(name: str, earlier: object, current: object) -> str:
    """Describe in a few words how an entry of the fingerprint differs.

    >>> describe_change("--precision", "fp32", "bf16")
    '--precision was fp32, now bf16'
    >>> describe_change("--categories", ["bottle", "grid"], [])
    '--categories was bottle grid, now none'
    >>> describe_change("images", {"a.png": "1", "b.png": "2"}, {"a.png": "3", "c.png": "4"})
    'images: added c.png, removed b.png, changed a.png'
    """
    if isinstance(earlier, dict) and isinstance(current, dict):
        kinds = {
            "added": current.keys() - earlier.keys(),
            "removed": earlier.keys() - current.keys(),
            "changed": {k for k in earlier.keys() & current.keys() if earlier[k] != current[k]},
        }
        described = [
            f"{kind} {', '.join(sorted(names)[:MAX_NAMES])}"
            + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
            for kind, names in kinds.items()
            if names
        ]
        return f"{name}: {', '.join(described)}"
    return f"{name} was {abbreviate(earlier)}, now {abbreviate(current)}"


def abbreviate(value: object) -> str:
    """Return a value as text for a message; checksums are cut to their first digits."""
    if isinstance(value, list):
        return " ".join(map(abbreviate, value)) or "none"
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

"""Walk and list folders, and record what is passed over."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from datasets.decode import SUFFIXES
from datasets.layouts.names import list_names
from datasets.splits import UNKNOWN
from utils.cli import label
from utils.files import real_path

NO_FOLDER = "images"  # stands for the defect where no subfolder names it


@dataclass(frozen=True)
class ListedImage:
    """An image and what its folders say about it."""

    path: PurePath  # relative to the folder that was listed
    label: int = UNKNOWN  # 0 good, 1 anomalous
    defect: str = NO_FOLDER  # "good" for a good image


@dataclass
class Tree:
    """The image files of a folder, sorted by path."""

    images: list[ListedImage] = field(default_factory=list)
    masks: list[PurePath] = field(default_factory=list)  # relative to the folder
    labelled: set[PurePath] = field(default_factory=set)  # the folders with a good subfolder
    passed_over: dict[str, list[str]] = field(default_factory=dict)  # reason to names

    def pass_over(self, reason: str, name: object) -> None:
        """Remember a file or folder that is not used."""
        self.passed_over.setdefault(reason, []).append(str(name))

    def messages(self, option: str) -> list[str]:
        """Return one line for each reason, with a count and the first names."""
        return [
            f"{label(option)}: passed over {reason}: {list_names(names)}"
            for reason, names in self.passed_over.items()
        ]


def walk(folder: Path, tree: Tree, skip: Collection[Path] = ()) -> Iterator[PurePath]:
    """Yield the files below a folder as relative paths.

    Hidden and unreadable entries are recorded in `tree`. Links are followed; each folder is
    visited once, and those in `skip`, real paths, never.
    """
    visited = {real_path(folder), *skip}

    def unreadable(error: OSError) -> None:
        tree.pass_over("folders that cannot be read", error.filename)

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable):
        inside = PurePath(os.path.relpath(parent, folder))
        for name in sorted(name for name in (*folders, *names) if name.startswith(".")):
            tree.pass_over("hidden files and folders", inside / name)
        targets = {name: real_path(Path(parent, name)) for name in sorted(folders)}
        folders[:] = [
            name
            for name, target in targets.items()
            if not name.startswith(".") and target not in visited
        ]
        visited |= set(targets.values())
        yield from (inside / name for name in sorted(names) if not name.startswith("."))


def subfolders(folder: Path) -> list[Path]:
    """Return the visible subfolders of a folder, sorted."""
    paths = sorted(folder.iterdir())
    return [path for path in paths if path.is_dir() and not path.name.startswith(".")]


def list_images(folder: Path) -> list[Path]:
    """List the images of a folder, sorted; [] if it does not exist. Other files are ignored."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )

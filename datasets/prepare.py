"""Shared code of the preparation scripts: scan a raw dataset, check it, and write its split.

A script describes its dataset as a `BenchmarkSpec` and calls `main`. Raw data are only read.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

from datasets.check import FileCheck, check_file, find_depths, notes_on_files
from datasets.decode import THREADS, describe_white
from datasets.download import Archive, check_local, fetch, unpack
from datasets.official import OFFICIAL, Counts, count_images, count_mismatches
from datasets.splits import (
    SPLITS_FOLDER,
    Sample,
    row_fault,
    write_depths,
    write_notes,
    write_root,
    write_split,
)
from utils.cli import default_text, parse_options, run_cli
from utils.errors import InputError, describe_error
from utils.files import PROJECT, is_printable_name, user_path
from utils.log import progress_bar

MAX_LISTED_FAULTS = 20  # further ones are only counted
DEFAULT_SHOTS = (0, 1, 2, 4)  # of the runners


@dataclass(frozen=True)
class Options:
    """The command line of a preparation script."""

    data_root: Path
    """Folder of the raw dataset; --download unpacks the archive into it."""
    download: bool = False
    """Download the archive and unpack it into the data root first."""
    url: Annotated[str, default_text("the official one")] = ""
    """Address of the archive, if it has moved."""
    archive: Annotated[Path | None, default_text("none", "PATH")] = None
    """Archive that you already have: unpack it into the data root instead of downloading one."""
    sha256: Annotated[str, default_text("that of the official archive")] = ""
    """SHA-256 checksum of the archive, if it is not the official one."""
    allow_incomplete: bool = False
    """Accept a dataset whose image counts differ from the official ones."""
    splits_folder: Path = SPLITS_FOLDER
    """Folder that the split is written to."""


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark as its preparation script describes it."""

    name: str  # as in `OFFICIAL`: "mvtec"
    stem: str  # of its split files: "mvtec" for mvtec.csv
    title: str  # in messages: "MVTec AD"
    layout: str  # of its folder, for the message about a wrong folder
    # Return all samples below a root, and the faults of files that are in no sample.
    scan: Callable[[Path], tuple[list[Sample], list[str]]]
    archive: Archive = field(default_factory=Archive)
    top_folders: tuple[str, ...] = ()  # names of the folder that its archive may unpack into
    runner: str = ""  # the script to run next and its options, such as "run_visa.py"
    named_defects: bool = True  # False: meta.json leaves the names of defects empty
    official: bool = True  # False: there are no official counts to compare with
    notes: tuple[str, ...] = ()  # to show beside every result, in addition to those on the files


def main(spec: BenchmarkSpec, description: str, script: str) -> None:
    """Run a preparation script: parse its options, then `prepare`."""
    default = Options(data_root=default_root(spec.name))
    run_cli(lambda: prepare(spec, parse_options(default, description, Path(script))))


def default_root(name: str) -> Path:
    """Return the default data root of a benchmark."""
    return PROJECT / "data" / name


def prepare(spec: BenchmarkSpec, options: Options) -> list[Path]:
    """Scan, count and check a dataset and write its split; return the paths of CSV and meta.json.

    Raise `InputError` if the folder is not this dataset, if it is incomplete (unless that is
    allowed), or if any file in it is damaged; then no split is written.
    """
    for option, folder in (
        ("data-root", options.data_root),
        ("splits-folder", options.splits_folder),
    ):
        if not is_printable_name(str(folder.absolute())):
            raise InputError(
                f"--{option}: {str(folder)!a} is not UTF-8 or has control characters; rename it"
            )
    if options.download or options.archive:
        unpack_archive(spec, options)
    root = find_root(spec, user_path(options.data_root))
    samples, faults = scan(spec, root)
    raise_faults(check_rows(root, samples))
    print(f"{spec.title} in {root}\n\n{format_counts(spec, samples)}\n")
    if spec.official:
        check_counts(spec, samples, options.allow_incomplete)
    checks = check_files(root, samples)
    raise_faults(faults + [check.fault for check in checks if check.fault])
    notes, depths = notes_on_files(samples, checks), find_depths(samples, checks)
    for note in (*notes, *(f"{name}: {describe_white(white)}" for name, white in depths.items())):
        print(f"note: {note}")
    splits_folder = user_path(options.splits_folder)
    files = write_split(samples, splits_folder, spec.stem, spec.named_defects)
    write_root(root, splits_folder, spec.name)
    write_notes([*spec.notes, *notes], files[0])
    write_depths(depths, files[0])
    print(f"wrote {files[0]}\n      {files[1]}")
    if spec.runner:
        print(f"to run it: {run_command(spec, root, files[0], samples)}")
    return files


def run_command(spec: BenchmarkSpec, root: Path, split: Path, samples: Sequence[Sample]) -> str:
    """Return the command that runs a benchmark, with fewer shots where train images are few."""
    words = ["python", *spec.runner.split()]
    if split.absolute() != SPLITS_FOLDER / f"{spec.name}.csv":  # not where the runner looks
        words += ["--data-root", str(root), "--split", str(split)]
    train = Counter(s.class_name for s in samples if s.split == "train" and s.label == 0)
    most = min(train[sample.class_name] for sample in samples)
    if most >= max(DEFAULT_SHOTS):
        return shlex.join(words)
    words += ["--shots", *(str(count) for count in DEFAULT_SHOTS if count <= most)]
    images = f"{most} train image{'' if most == 1 else 's'}"
    return f"{shlex.join(words)}  (no more shots: the smallest category has {images})"


def unpack_archive(spec: BenchmarkSpec, options: Options) -> None:
    """Unpack the archive into the data root: the given one, or else a downloaded one."""
    archive = replace(
        spec.archive,
        urls=(options.url,) if options.url else spec.archive.urls,
        sha256=(options.sha256 or spec.archive.sha256).lower(),
        size=None if options.url or options.sha256 else spec.archive.size,
    )
    folder = user_path(options.data_root)
    if options.archive:
        unpack(check_local(archive, user_path(options.archive)), folder)
        return
    if not archive.urls:
        raise InputError(f"{spec.title} has no archive to download; {archive.by_hand}")
    file = fetch(archive, folder)
    unpack(file, folder)
    print(f"{file} is no longer needed")


def find_root(spec: BenchmarkSpec, given: Path) -> Path:
    """Return the folder of the categories: the given one, or the archive's top folder in it."""
    if not given.is_dir():
        fault = "is not a folder" if given.exists() else "does not exist"
        default = "the default folder " if given == default_root(spec.name) else ""
        download = "add --download, or " if spec.archive.urls else ""
        raise InputError(
            f"--data-root: {default}{given} {fault}; give the folder of the raw dataset, which "
            f"holds {spec.layout}. To get it, {download}{spec.archive.by_hand}"
        )
    inside = [given / name for name in spec.top_folders if (given / name).is_dir()]
    if len(inside) == 1 and not any((given / name).is_dir() for name in OFFICIAL[spec.name]):
        print(f"using {inside[0]}")
        return inside[0]
    return given


def scan(spec: BenchmarkSpec, root: Path) -> tuple[list[Sample], list[str]]:
    """Return samples and faults of a dataset; raise `InputError` if it has no sample."""
    with readable(root):
        samples, faults = spec.scan(root)
    if not samples:
        raise InputError(
            f"--data-root: {root} is not {spec.title}: it has no category with images; expected "
            f"{spec.layout}; for a dataset of your own, run python datasets/folder.py --data-root "
            "DIR --name NAME"
        )
    return samples, faults


@contextmanager
def readable(root: Path) -> Iterator[None]:
    """Raise `InputError` if the block cannot read a folder or a file below `root`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or root} cannot be read ({describe_error(error)}); check its "
            "permissions"
        ) from error


def raise_faults(faults: Sequence[str]) -> None:
    """Raise `InputError` with all `faults`, one per line, if there are any."""
    if faults:
        problems = f"{len(faults)} problem{'s' * (len(faults) > 1)}"
        lines = [f"the split cannot be written before you fix {problems}:"]
        lines += faults[:MAX_LISTED_FAULTS]
        if len(faults) > MAX_LISTED_FAULTS:
            lines.append(f"and {len(faults) - MAX_LISTED_FAULTS} more")
        raise InputError("\n  ".join(lines))


def check_counts(spec: BenchmarkSpec, samples: Sequence[Sample], allow_incomplete: bool) -> None:
    """Compare the counts with the official ones; if they differ, warn or raise `InputError`."""
    missing, wrong = count_mismatches(spec.name, samples)
    if not missing and not wrong:
        print("complete: all counts are the official ones\n")
        return
    reasons = [f"missing: {', '.join(missing)}"] if missing else []
    reasons += [f"not the official counts: {', '.join(wrong)}"] if wrong else []
    reason = "; ".join(reasons)
    if not allow_incomplete:
        raise InputError(
            f"the dataset is incomplete ({reason}; the table above lists actual/official counts); "
            "download it again, or pass --allow-incomplete, which is noted in all results"
        )
    print(f"incomplete, as allowed ({reason})\n")


def format_counts(spec: BenchmarkSpec, samples: Sequence[Sample]) -> str:
    """Format a table of the actual/official counts per category, with the defects by name."""
    actual = count_images(samples)
    official = OFFICIAL[spec.name] if spec.official else {}
    rows = [("category", "train", "test good", "anomalous", "defects")]
    for name in dict.fromkeys((*OFFICIAL.get(spec.name, {}), *actual)):
        counts, target = actual.get(name, Counts(0, 0, 0)), official.get(name)
        kinds = ("train", "good", "anomalous")
        sums = [format_count(getattr(counts, kind), getattr(target, kind, None)) for kind in kinds]
        by_name = target.defects if target else {}
        defects = [
            f"{kind} {format_count(n, by_name.get(kind))}" for kind, n in counts.defects.items()
        ]
        rows.append((name, *sums, ", ".join(defects)))
    w = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:{w[0]}}  {b:>{w[1]}}  {c:>{w[2]}}  {d:>{w[3]}}  {e}" for a, b, c, d, e in rows]
    return "\n".join(line.rstrip() for line in lines)


def format_count(actual: int, official: int | None) -> str:
    """Format a count beside the official one, if that is on record.

    >>> format_count(8, 209), format_count(8, None)
    ('8/209', '8')
    """
    return str(actual) if official is None else f"{actual}/{official}"


def check_rows(root: Path, samples: Sequence[Sample]) -> list[str]:
    """Return the faults of samples that `read_split` would reject, with their paths."""
    faults, seen = [], set()
    for sample in samples:
        row = {column: str(value) for column, value in asdict(sample).items()}
        if fault := row_fault(row, seen):
            path = str(root / sample.image)
            path = path if is_printable_name(path) else ascii(path)
            faults.append(f"{path}: its row has {fault}")
    return faults


def check_files(root: Path, samples: Sequence[Sample]) -> list[FileCheck]:
    """Decode the image and the mask of every sample."""
    with ThreadPoolExecutor(THREADS) as pool:
        checks = pool.map(lambda sample: check_file(root, sample), samples)
        return list(progress_bar(checks, total=len(samples), desc="checking images", unit="image"))

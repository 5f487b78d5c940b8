"""What the preparation scripts share: options, scan, checks, the table, and what is written.

A script says what its dataset is (`Dataset`) and calls `main`. Images are read, never touched.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets.decode import read_anomalous, read_image
from datasets.download import Archive, fetch, unpack
from datasets.official import OFFICIAL, Counts, counted, differences
from datasets.splits import SPLITS_FOLDER, Sample, fault_of, write_root, write_split
from utils.cli import parse_options, run_cli
from utils.errors import InputError
from utils.files import PROJECT, is_printable_name, user_path
from utils.log import progress_bar

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # other files are strays
LISTED = 20  # faults told one by one; the rest are counted
THREADS = os.cpu_count() or 1  # Pillow, NumPy and OpenCV work outside Python's lock


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    data_root: Path
    """Folder of the raw dataset; with --download, where to put it."""
    download: bool = False
    """Fetch the archive and unpack it into the data root first."""
    url: str = ""
    """Address of the archive, if it has moved."""
    sha256: str = ""
    """Checksum of the archive, if it is another one."""
    allow_incomplete: bool = False
    """Go on with a dataset that differs from the official counts."""
    splits_folder: Path = SPLITS_FOLDER
    """Where the split is written."""


@dataclass(frozen=True)
class Dataset:
    """One benchmark, as its preparation script describes it."""

    name: str  # of its runner: "mvtec"
    stem: str  # of its split files: "mvtec.csv"
    title: str
    archive: Archive
    layout: str  # what its folder looks like, for the message about a foreign one
    # All samples below a root, and the faults found on the way.
    scan: Callable[[Path], tuple[list[Sample], list[str]]]
    top_folders: tuple[str, ...] = ()  # that its archive may unpack into
    named_defects: bool = True  # whether meta.json names them
    official: bool = True  # whether its counts are on record


def main(dataset: Dataset, description: str, script: str) -> None:
    """Run a preparation script: its options, then `prepare`."""
    default = Options(data_root=PROJECT / "data" / dataset.name)
    run_cli(lambda: prepare(dataset, parse_options(default, description, Path(script))))


def prepare(dataset: Dataset, options: Options) -> list[Path]:
    """Find, check and count a dataset and write its split; returns the files written."""
    for option, folder in (
        ("data-root", options.data_root),
        ("splits-folder", options.splits_folder),
    ):
        if not is_printable_name(str(folder.absolute())):
            raise InputError(
                f"--{option}: {str(folder)!a} is not UTF-8 or has control characters; rename it"
            )
    if options.download:
        download(dataset, options)
    root = find_root(dataset, user_path(options.data_root))
    try:
        samples, faults = dataset.scan(root)
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error}); check its permissions") from error
    if not samples:
        raise InputError(
            f"{root} is not {dataset.title}: no category with images is in it; it should hold "
            f"{dataset.layout}"
        )
    refuse(check_rows(root, samples))
    print(f"{dataset.title} in {root}\n\n{table(dataset, samples)}\n")
    if dataset.official:
        compare(dataset, samples, options.allow_incomplete)
    refuse(faults + check_files(root, samples))
    files = write_split(samples, options.splits_folder, dataset.stem, dataset.named_defects)
    write_root(root, options.splits_folder, dataset.name)
    print(f"wrote {files[0]}\n      {files[1]}")
    return files


def refuse(faults: Sequence[str]) -> None:
    """End with all `faults`, each on its line, if there are any."""
    if faults:
        rest = f"\n  and {len(faults) - LISTED} more" if len(faults) > LISTED else ""
        listed = "".join(f"\n  {fault}" for fault in faults[:LISTED])
        raise InputError(
            f"{len(faults)} files must be mended before a split is made:{listed}{rest}"
        )


def download(dataset: Dataset, options: Options) -> None:
    """Fetch and unpack the archive into the data root."""
    official = dataset.archive
    archive = Archive(
        options.url or official.url,
        (options.sha256 or official.sha256).lower(),
        official.size if not (options.url or options.sha256) else None,
        official.by_hand,
    )
    if not archive.url:
        raise InputError(f"{dataset.title} has no archive to download; {archive.by_hand}")
    file = fetch(archive, user_path(options.data_root))
    unpack(file, user_path(options.data_root))
    print(f"{file} is no longer needed")


def find_root(dataset: Dataset, given: Path) -> Path:
    """The folder that holds the categories: the given one, or the archive's own one inside it."""
    if not given.is_dir():
        what = "is no folder" if given.exists() else "does not exist"
        raise InputError(
            f"--data-root: {given} {what}; give the folder of the raw dataset, which holds "
            f"{dataset.layout}. To get it, {dataset.archive.by_hand}"
        )
    inside = [given / name for name in dataset.top_folders if (given / name).is_dir()]
    if len(inside) == 1 and not any((given / name).is_dir() for name in OFFICIAL[dataset.name]):
        print(f"using {inside[0]}")
        return inside[0]
    return given


def compare(dataset: Dataset, samples: Sequence[Sample], allow_incomplete: bool) -> None:
    """Say where the dataset differs from the official counts; an error unless that is allowed."""
    missing, wrong = differences(dataset.name, samples)
    if not missing and not wrong:
        print("complete: every count is the official one\n")
        return
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"not the official counts: {', '.join(wrong)}"] if wrong else []
    text = "; ".join(parts)
    if not allow_incomplete:
        raise InputError(
            f"the dataset is not complete ({text}; the table has here/official); fetch it again, "
            "or go on with --allow-incomplete, which every table made from it will say"
        )
    print(f"incomplete, allowed ({text})\n")


def table(dataset: Dataset, samples: Sequence[Sample]) -> str:
    """Category, train, good and anomalous images here/official, and the defects by name."""
    found = counted(samples)
    names = [
        *OFFICIAL[dataset.name],
        *(name for name in found if name not in OFFICIAL[dataset.name]),
    ]
    rows = [("category", "train", "test good", "anomalous", "defects")]
    for name in names:
        here = found.get(name, Counts(0, 0, 0, {}))
        wanted = OFFICIAL[dataset.name].get(name) if dataset.official else None
        pairs = [(here.train, "train"), (here.good, "good"), (here.anomalous, "anomalous")]
        cells = [beside(count, getattr(wanted, field, None)) for count, field in pairs]
        official = wanted.defects if wanted else {}
        kinds = [f"{kind} {beside(n, official.get(kind))}" for kind, n in here.defects.items()]
        rows.append((name, *cells, ", ".join(kinds)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def beside(here: int, official: int | None) -> str:
    """A count beside the official one, where that is on record.

    >>> beside(8, 209), beside(8, None)
    ('8/209', '8')
    """
    return str(here) if official is None else f"{here}/{official}"


def check_rows(root: Path, samples: Sequence[Sample]) -> list[str]:
    """The samples that could not be read back from a split, each with its path."""
    faults, seen = [], set()
    for sample in samples:
        row = {column: str(value) for column, value in asdict(sample).items()}
        if fault := fault_of(row, seen):
            path = str(root / sample.image)
            faults.append(
                f"{path if is_printable_name(path) else ascii(path)}: its row has {fault}"
            )
    return faults


def check_files(root: Path, samples: Sequence[Sample]) -> list[str]:
    """Decode every image and mask; the faults, each with its path."""
    with ThreadPoolExecutor(THREADS) as pool:
        work = pool.map(lambda sample: damage_of(root, sample), samples)
        told = list(progress_bar(work, total=len(samples), desc="checking images", unit="image"))
    return [fault for fault in told if fault]


def damage_of(root: Path, sample: Sample) -> str:
    """What is wrong with the files of one sample, or ""."""
    try:
        image = read_image(root / sample.image)
        if sample.mask:
            read_anomalous(root / sample.mask, image.size)
    except InputError as error:
        return str(error)
    return ""


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted; [] where there is no folder. Stray files are passed over."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def scan_mvtec_layout(root: Path, names: Sequence[str]) -> tuple[list[Sample], list[str]]:
    """Scan <category>/{train,test,ground_truth}/<defect>/*; masks are paired by stem.

    A mask is `<stem>_mask` or `<stem>`. Returns samples and the faults found.
    """
    samples, faults = [], []
    for category in names:
        for path in image_files(root / category / "train" / "good"):
            image = path.relative_to(root).as_posix()
            samples.append(Sample(category, "train", 0, "good", image, ""))
        tests = root / category / "test"
        for folder in sorted(tests.iterdir()) if tests.is_dir() else []:
            masks = {p.stem: p for p in image_files(root / category / "ground_truth" / folder.name)}
            for path in image_files(folder):
                image, mask = path.relative_to(root).as_posix(), ""
                if folder.name != "good":
                    found = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
                    if found is None:
                        faults.append(f"{path}: it has no mask in ground_truth/{folder.name}")
                        continue
                    mask = found.relative_to(root).as_posix()
                label = int(folder.name != "good")
                samples.append(Sample(category, "test", label, folder.name, image, mask))
    return samples, faults

"""Write, read and check the split of a benchmark: one CSV row (`Sample`) per image.

Beside <name>.csv, a preparation script writes <name>_meta.json in the form that other repositories
of the field read, <name>_root.txt with the data root, so that a runner needs no option, and where
needed, <name>_notes.txt with warnings and <name>_depth.json for images of more than 8 bits.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from datasets.decode import White
from utils.cli import spell
from utils.errors import InputError, describe_error
from utils.files import is_printable_name, real_path, write_text

SCRIPTS = ("mvtec", "visa", "mpdd", "demo")  # in datasets/, each for the benchmark of its name
# Added to the name of a result folder by --method, --no-maps and random weights.
RESERVED_SUFFIXES = ("-random", "-no-maps", "-anomalyclip", "-inctrl")
MAX_NAME = 100  # characters of a benchmark's name
UNKNOWN = -1  # label of an image without ground truth; never in a split, only in custom images
RECIPE = "recipe.txt"  # in the root of rendered data: checksum of the seed and of the renderer
SPLITS_FOLDER = Path(__file__).resolve().parent / "splits"


@dataclass(frozen=True, order=True)
class Sample:
    """One image of a benchmark: a row of its split, whose columns are these fields.

    Paths are POSIX and relative to the data root. Samples sort by their fields, in this order.
    """

    class_name: str  # the category as the dataset spells it: "metal_nut"; not a path
    split: str  # "train" or "test"
    label: int  # 0 good, 1 anomalous
    defect: str  # "good", or the name of the defect's folder; VisA has "anomaly"
    image: str  # unique in the split
    mask: str  # of an anomalous image: a file, a folder of files to unite, or "" if there is none


COLUMNS = [field.name for field in fields(Sample)]


def write_split(
    samples: Sequence[Sample], folder: Path, name: str, named_defects: bool = True
) -> list[Path]:
    """Write <name>.csv and <name>_meta.json, sorted and atomically; return both paths.

    `named_defects` as in `build_meta`. Raise `InputError` if the folder cannot be written.
    """
    rows = sorted(samples)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(sample) for sample in rows)
    meta = json.dumps(build_meta(rows, named_defects), indent=4, ensure_ascii=False) + "\n"
    files = {folder / f"{name}.csv": table.getvalue(), folder / f"{name}_meta.json": meta}
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def build_meta(samples: Sequence[Sample], named_defects: bool) -> dict:
    """Build the meta.json that AnomalyCLIP and related code read.

    Keys are "train" and "test", then the category; values are lists of images. `specie_name` is
    the defect if `named_defects`, else "", as they have it for VisA.
    """
    meta: dict[str, dict[str, list[dict]]] = {"train": {}, "test": {}}
    for sample in samples:
        entry = {
            "img_path": sample.image,
            "mask_path": sample.mask,
            "cls_name": sample.class_name,
            "specie_name": sample.defect if named_defects else "",
            "anomaly": sample.label,
        }
        meta[sample.split].setdefault(sample.class_name, []).append(entry)
    return meta


def read_split(path: Path) -> list[Sample]:
    """Read and check a split; the samples keep the order of the file.

    Raise `InputError` with the file and the line of the first fault.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except FileNotFoundError as error:
        raise InputError(
            f"there is no split {path}; run {preparation_command(path.stem)} first"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the split {path} cannot be read ({describe_error(error)}); prepare it again"
        ) from error
    try:
        return parse_rows(text)
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"the split {path} has {error}; correct the file, or prepare the split again"
        ) from error


def parse_rows(text: str) -> list[Sample]:
    """Parse the text of a split; raise `ValueError` with its first fault and the line."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    header = list(reader.fieldnames or [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    if len(set(header)) != len(header):
        raise ValueError("a duplicate column")
    samples, seen = [], set()
    for row in reader:
        if fault := row_fault(row, seen):
            raise ValueError(f"{fault} in line {reader.line_num}")
        values = {column: row[column] for column in COLUMNS}
        samples.append(Sample(**values | {"label": int(row["label"])}))
    if not samples:
        raise ValueError("no rows")
    return samples


def row_fault(row: dict, seen: set[str]) -> str:
    """Return what is wrong with one row of a split, or ""; its image is added to `seen`."""
    if None in row or any(row[column] is None for column in COLUMNS):
        return "too many or too few fields"
    if not all(is_printable_name(row[column]) for column in COLUMNS):
        return "a name that is not UTF-8 or has control characters"
    if row["split"] not in ("train", "test"):
        return f'the split "{row["split"]}" (expected train or test)'
    if row["label"] not in ("0", "1"):
        return f'the label "{row["label"]}" (expected 0 or 1)'
    if not row["class_name"] or not row["image"]:
        return "an empty class_name or image"
    if row["label"] == "0" and row["mask"]:
        return "a good image with a mask"
    # Results are written to folders and files with these names.
    names = row["class_name"], row["defect"]
    if set("".join(names)) & set("/\\") or {".", ".."} & set(names):
        return "a class_name or defect that is a path"
    for column in ("image", "mask"):
        path = PurePosixPath(row[column])
        if not path.parts and row[column]:
            return f'a path "{row[column]}" that names no file'
        if path.is_absolute() or ".." in path.parts or "\\" in row[column]:
            return f'a path "{row[column]}" that is not relative to the data root'
        if row[column] and str(path) != row[column]:
            return f'a path "{row[column]}" that is not normalised (expected "{path}")'
    if row["image"] in seen:
        return "a duplicate image"
    seen.add(row["image"])
    return ""


def check_name(name: str) -> None:
    """Raise `InputError` unless `name` can name a user's own benchmark.

    It becomes part of file names, and must not be that of a benchmark with a script of its own.
    """
    if not re.fullmatch(r"\w([\w.-]*\w)?", name) or len(name) > MAX_NAME:
        raise InputError(
            f'{spell("name", name)}: expected a name of letters, digits, "_", "-" and ".", at most '
            f"{MAX_NAME} characters, such as my_parts"
        )
    lower = name.lower()
    if script_of(lower) or lower == "custom" or lower.endswith(RESERVED_SUFFIXES):
        raise InputError(
            f"{spell('name', name)}: the names {', '.join(SCRIPTS)} and custom, and names that "
            f"end with {', '.join(RESERVED_SUFFIXES)}, belong to other results; choose another name"
        )


def script_of(name: str) -> str:
    """Return the benchmark in SCRIPTS that the split <name>.csv belongs to, or ""."""
    script = "visa" if name.startswith("visa_2cls") else name  # such as visa_2cls_fewshot
    return script if script in SCRIPTS else ""


def preparation_command(name: str) -> str:
    """Return the command that writes the split <name>.csv."""
    if script := script_of(name):
        return f"python datasets/{script}.py --data-root DIR"
    return f"python datasets/folder.py --data-root DIR --name {name}"


def first_of_each_defect(samples: Sequence[Sample], count: int) -> list[int]:
    """Return the indices of the first `count` samples of each defect and of "good", in order."""
    seen: Counter[str] = Counter()
    indices = []
    for index, sample in enumerate(samples):
        seen[sample.defect] += 1
        if seen[sample.defect] <= count:
            indices.append(index)
    return indices


def write_root(root: Path, folder: Path, dataset: str) -> None:
    """Record the data root of a split as <dataset>_root.txt."""
    write_text(folder / f"{dataset}_root.txt", f"{real_path(root)}\n")


def read_root(dataset: str, folder: Path = SPLITS_FOLDER) -> Path:
    """Return the data root of the last preparation; raise `InputError` if there was none."""
    path = folder / f"{dataset}_root.txt"
    if not path.exists():
        check_prepared(dataset, folder)
    try:
        return Path(path.read_text(encoding="utf-8").rstrip("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{spell('data_root', 'auto')}, but no data root is recorded; run "
            f"{preparation_command(dataset)} first, or give the folder of the raw dataset"
        ) from error


def check_prepared(name: str, folder: Path) -> None:
    """Raise `InputError` if the user has prepared only datasets with other names."""
    names = sorted(path.name.removesuffix("_root.txt") for path in folder.glob("*_root.txt"))
    names = [prepared for prepared in names if not script_of(prepared)]
    if names and not script_of(name):
        near = " or ".join(f'"{prepared}"' for prepared in get_close_matches(name, names))
        hint = f" (did you mean {near}?)" if near else ""
        raise InputError(
            f'no dataset with the name "{name}" is prepared{hint}; the prepared ones are '
            f"{', '.join(names)}; to prepare another, run {preparation_command(name)}"
        )


def write_notes(notes: Sequence[str], split: Path) -> None:
    """Write <name>_notes.txt beside a split: warnings to show beside every result.

    Without notes, delete it.
    """
    path = split.with_name(f"{split.stem}_notes.txt")
    if notes:
        write_text(path, "".join(f"{note}\n" for note in notes))
    else:
        path.unlink(missing_ok=True)


def read_notes(split: Path) -> list[str]:
    """Return the warnings that `write_notes` wrote beside a split, if any."""
    path = split.with_name(f"{split.stem}_notes.txt")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def write_depths(depths: Mapping[str, White], split: Path) -> None:
    """Write <name>_depth.json beside a split; without files of more than 8 bits, delete it."""
    path = depth_file(split)
    if depths:
        write_text(path, json.dumps({name: asdict(white) for name, white in depths.items()}) + "\n")
    else:
        path.unlink(missing_ok=True)


def read_depths(split: Path) -> dict[str, White]:
    """Return what becomes white in each category, as `write_depths` wrote it beside a split."""
    path = depth_file(split)
    depths = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {category: White(**values) for category, values in depths.items()}


def depth_file(split: Path) -> Path:
    """Return the file of the depths beside a split."""
    return split.with_name(f"{split.stem}_depth.json")


def read_recipe(root: Path) -> str:
    """Return the checksum that rendered data were made with; "" for other data."""
    path = root / RECIPE
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""

"""One row type for every benchmark, and how a split is written, read and checked.

A split is a CSV (`class_name,split,label,defect,image,mask`; POSIX paths relative to the data
root; sorted) and the `meta.json` that the field's other repositories read. Beside them stands the
data root that the preparation script was given, so that a runner needs no option.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path, PurePosixPath

from utils.errors import InputError, describe_error
from utils.files import is_printable_name, real_path, write_text

UNKNOWN = -1  # label of a picture that nobody has judged; only one's own pictures have it
RECIPE = "recipe.txt"  # in the root of rendered data: what they were rendered with
SPLITS_FOLDER = Path(__file__).resolve().parent / "splits"


@dataclass(frozen=True, order=True)
class Sample:
    """One image of a benchmark; paths are POSIX and relative to the data root."""

    class_name: str  # as the dataset spells it: "metal_nut"
    split: str  # "train" or "test"
    label: int  # 0 good, 1 anomalous
    defect: str  # "good", or the defect's folder name
    image: str
    mask: str  # "" where there is none


COLUMNS = [field.name for field in fields(Sample)]


def write_split(
    samples: Sequence[Sample], folder: Path, name: str, named_defects: bool = True
) -> list[Path]:
    """Write `<name>.csv` and `<name>_meta.json`, sorted and atomically; returns both paths."""
    rows = sorted(samples)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(sample) for sample in rows)
    meta = json.dumps(meta_of(rows, named_defects), indent=4, ensure_ascii=False) + "\n"
    files = {folder / f"{name}.csv": table.getvalue(), folder / f"{name}_meta.json": meta}
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def meta_of(samples: Sequence[Sample], named_defects: bool) -> dict:
    """The field's meta.json: train and test, then class, then a list of images.

    `named_defects`: whether `specie_name` is the defect's name, or "" as the field has it for VisA.
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
    """Read and check a split; every fault is an `InputError` with the file and the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets mark it so
    except FileNotFoundError as error:
        raise InputError(
            f"there is no split {path}; run python datasets/{path.stem.split('_')[0]}.py "
            "--data-root DIR first"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the split {path} cannot be read ({describe_error(error)}); prepare it again"
        ) from error
    try:
        return rows_of(text)
    except (ValueError, csv.Error) as error:
        raise InputError(f"the split {path} has {error}; prepare it again") from error


def rows_of(text: str) -> list[Sample]:
    """The rows of a split's text; a `ValueError` says what fault it has in which line."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = list(reader.fieldnames or [])
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}")
    if len(set(names)) != len(names):
        raise ValueError("two columns of one name")
    samples, seen = [], set()
    for row in reader:
        if fault := fault_of(row, seen):
            raise ValueError(f"{fault} in line {reader.line_num}")
        values = {column: row[column] for column in COLUMNS}
        samples.append(Sample(**values | {"label": int(row["label"])}))
    if not samples:
        raise ValueError("no rows")
    return samples


def fault_of(row: dict, seen: set[str]) -> str:
    """What is wrong with one row of a split, or ""; `seen` gathers the images of the rows."""
    if None in row or any(row[column] is None for column in COLUMNS):
        return "too many or too few fields"
    if not all(is_printable_name(row[column]) for column in COLUMNS):
        return "a name that is not UTF-8 or has control characters"
    if row["split"] not in ("train", "test"):
        return f'the split "{row["split"]}" (it is train or test)'
    if row["label"] not in ("0", "1"):
        return f'the label "{row["label"]}" (it is 0 or 1)'
    if not row["class_name"] or not row["image"]:
        return "an empty class_name or image"
    if (row["label"] == "1") != bool(row["mask"]):
        return "an anomalous image without mask, or a good one with"
    # These name folders and files of the results.
    if any(
        set(row[column]) & set("/\\") or row[column] in (".", "..")
        for column in ("class_name", "defect")
    ):
        return "a class_name or defect that is a path"
    for column in ("image", "mask"):
        parts = PurePosixPath(row[column])
        if not parts.parts and row[column]:
            return f'a path "{row[column]}" that names no file'
        if parts.is_absolute() or ".." in parts.parts or "\\" in row[column]:
            return f'a path "{row[column]}" that is not relative to the data root'
        if row[column] and str(parts) != row[column]:
            return f'a path "{row[column]}" that is written "{parts}" in short'
    if row["image"] in seen:
        return "an image that stands there twice"
    seen.add(row["image"])
    return ""


def first_of_each_defect(samples: Sequence[Sample], count: int) -> list[int]:
    """The places of the first `count` samples of each defect ("good" is one), in order."""
    seen: dict[str, int] = {}
    places = []
    for place, sample in enumerate(samples):
        seen[sample.defect] = seen.get(sample.defect, 0) + 1
        if seen[sample.defect] <= count:
            places.append(place)
    return places


def write_root(root: Path, folder: Path, dataset: str) -> None:
    """Record the data root that a split was made from."""
    write_text(folder / f"{dataset}_root.txt", f"{real_path(root)}\n")


def read_root(dataset: str, folder: Path = SPLITS_FOLDER) -> Path:
    """The data root of the last preparation; an `InputError` where there was none."""
    path = folder / f"{dataset}_root.txt"
    try:
        return Path(path.read_text(encoding="utf-8").rstrip("\n"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f'DATA_ROOT = "auto", but no data root is recorded; run python datasets/{dataset}.py '
            "--data-root DIR first, or give the folder of the raw dataset"
        ) from error


def read_recipe(root: Path) -> str:
    """What rendered data were made with, as a checksum; "" for photographs."""
    file = root / RECIPE
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""

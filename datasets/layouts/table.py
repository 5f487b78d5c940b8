"""Read a dataset from a CSV of images and labels.

Commas, semicolons or tabs separate its columns; docs/own-data.md describes them. Paths are absolute
or relative to a folder, and may have Windows separators.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.check import is_blank
from datasets.layouts.folders import Scan
from datasets.layouts.names import BAD_WORDS, GOOD_WORDS, plain_word
from datasets.splits import Sample
from utils.errors import InputError, describe_error

COLUMNS = ("image", "label", "mask", "category", "class_name", "split", "defect")  # of a CSV
SPLITS = {"": "test", "train": "train", "test": "test", "val": "", "validation": ""}  # "": not used
# Labels that say neither good nor which defect, as `plain_word` writes them.
UNCLEAR_WORDS = {
    *("true", "false", "yes", "no", "positive", "negative", "pos", "neg"),
    *("none", "null", "nil", "na", "n/a", "missing", "undefined", "unknown", "unclear"),
    *("unlabeled", "unlabelled", "notlabeled", "notlabelled", "unsure", "tbd", "todo"),
}


def read_table(file: Path, base: Path, category: str) -> Scan:
    """Read a CSV of images and labels; its paths are absolute or relative to `base`.

    `category` is used where no column names one. Commas, semicolons or tabs separate the columns.
    The root of the scan is `base`, or the deepest common folder if files lie outside it. Raise
    `InputError` if the file is not such a table.
    """
    rows = parse_table(file)
    files = [locate(base, row[key]) for _, row in rows for key in ("image", "mask") if row[key]]
    scan = Scan(find_root(base, files))
    unused, seen = 0, set()
    for line, row in rows:
        image, mask = locate(base, row["image"]), locate(base, row["mask"]) if row["mask"] else None
        fault = fault_of_row(row, image, mask)
        if not fault and image in seen:
            fault = "the image is listed twice; to unite masks, list a folder that holds them"
        if fault:
            scan.faults.append(f"{file}, line {line}: {fault}")
            continue
        seen.add(image)
        label, defect = read_label(row)
        if split := SPLITS[row["split"].lower()]:
            name = row["category"] or row["class_name"] or category
            paths = [relative(path, scan.root) if path else "" for path in (image, label and mask)]
            scan.samples.append(Sample(name, split, label, defect, *paths))
        unused += not split
    if unused:
        scan.notes.append(f"validation images, which are not used: {unused}")
    return scan


def fault_of_row(row: Mapping[str, str], image: Path, mask: Path | None) -> str:
    """Return what is wrong with a row of the CSV, or ""."""
    label, _ = read_label(row)
    if label is None:
        return f'the label is "{row["label"]}"; expected 0, 1, good, or the name of a defect'
    if row["split"].lower() not in SPLITS:
        return f'the split is "{row["split"]}"; expected train, test or val'
    if not row["image"] or not image.is_file():
        return f"there is no image {image}"
    if mask and not mask.exists():
        return f"there is no mask {mask}"
    if mask and not label and not is_blank(mask):
        return f"the image is labelled good, and its mask {mask} is not blank"
    return ""


def parse_table(file: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV with their line numbers; a field without a column is "".

    Raise `InputError` if the file cannot be read or lacks a column.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
        header = text.partition("\n")[0]
        delimiter = max(",;\t", key=header.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip().lower() for name in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except FileNotFoundError as error:
        raise InputError(f"--csv: there is no file {file}; give a list of images") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--csv: {file} is not UTF-8; save it as CSV UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InputError(
            f"--csv: {file} cannot be read ({describe_error(error)}); check its permissions and "
            "format"
        ) from error
    if not any(map(any, (row for _, row in rows))):
        raise InputError(f"--csv: {file} lists no images; add one row for each image")
    if missing := [name for name in ("image", "label") if name not in columns]:
        raise InputError(
            f"--csv: {file} has no column {', '.join(missing)}; its first line names the columns: "
            "image, label and, optionally, mask, category, split, defect"
        )
    rows = [(line, row) for line, row in rows if any(row)]
    for line, row in rows:
        if len(row) != len(columns):
            raise InputError(
                f"--csv: {file} has {len(row)} fields in line {line}, and {len(columns)} columns; "
                "put quotes around fields that contain the separator"
            )
    empty = dict.fromkeys(COLUMNS, "")
    return [(line, empty | dict(zip(columns, row, strict=True))) for line, row in rows]


def read_label(row: Mapping[str, str]) -> tuple[int | None, str]:
    """Return the label and the defect of a row; the label is None if it says neither.

    >>> read_label({"label": "NG"}), read_label({"label": "scratch"}), read_label({"label": "0"})
    ((1, 'anomaly'), (1, 'scratch'), (0, 'good'))
    >>> read_label({"label": "1", "defect": "dent"}), read_label({"label": "2"})
    ((1, 'dent'), (None, ''))
    """
    word = row["label"].lower()
    word = {"0.0": "0", "1.0": "1"}.get(word, word)  # pandas writes labels as floats
    if word == "0" or plain_word(word) in GOOD_WORDS:
        return 0, "good"
    if word == "1" or plain_word(word) in BAD_WORDS:
        return 1, row.get("defect") or "anomaly"
    if plain_word(word) in UNCLEAR_WORDS or is_number(word) or not any(map(str.isalpha, word)):
        return None, ""
    return 1, row.get("defect") or row["label"]


def is_number(word: str) -> bool:
    """Return whether Python reads a word as a number.

    >>> is_number("1e0"), is_number("inf"), is_number("e1")
    (True, True, False)
    """
    try:
        float(word)
    except ValueError:
        return False
    return True


def locate(base: Path, given: str) -> Path:
    """Return the absolute path of a path in a CSV, which may have Windows separators."""
    path = base / given.replace("\\", "/")
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolves "..", but keeps links)


def relative(path: Path, root: Path) -> str:
    """Return the POSIX path of a file below the root."""
    return Path(os.path.relpath(path, root)).as_posix()


def find_root(base: Path, paths: Sequence[Path]) -> Path:
    """Return `base` if it holds all paths, else the deepest folder that does."""
    absolute = locate(base, "")
    if all(path.is_relative_to(absolute) for path in paths):
        return absolute
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:  # on Windows
        raise InputError("--csv: the images are on several drives; put them on one") from error

"""Check a raw VisA folder against its official split and counts, and write its split.

    python datasets/visa.py --data-root DIR              # DIR holds candle/, ..., split_csv/
    python datasets/visa.py --data-root DIR --download   # download the archive (1.9 GB) first

Reads split_csv/1cls.csv, or the folders 1cls/ that spot-diff's prepare_data.py makes of it, and
decodes every image and mask once. Writes datasets/splits/visa.csv, visa_meta.json (read by other
repositories of the field) and visa_root.txt (the data root, for run_visa.py). Never writes into the
image folders. VisA's masks look black because they hold defect ids from 1 to 9: every non-zero
pixel is anomalous. Licence of the data: CC BY 4.0.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

if __package__ in (None, ""):  # run as a file: imports start at the project, not at this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

import pandas as pd

from datasets.download import Archive
from datasets.layouts.mvtec_ad import scan_mvtec_layout
from datasets.official import OFFICIAL
from datasets.prepare import BenchmarkSpec, Options, default_root, prepare
from datasets.splits import Sample
from utils.cli import parse_options, run_cli
from utils.errors import InputError
from utils.files import sha256_of

URL = "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar"
SHA256 = "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362"
SIZE = 1_929_840_640  # bytes
SPLIT_SHA256 = "a48557e6033318cb90556f706196bc9d247a776a23ea51aecee5a80dd0332995"  # of 1cls.csv
COLUMNS = ["object", "split", "label", "image", "mask"]


@dataclass(frozen=True)
class VisaOptions(Options):
    """The shared options, and the choice of VisA's split."""

    split: Literal["1cls", "2cls_fewshot", "2cls_highshot"] = "1cls"
    """Official split to prepare; the paper and run_visa.py use 1cls."""


def visa(split: str) -> BenchmarkSpec:
    """Describe VisA under one of its official splits."""
    return BenchmarkSpec(
        name="visa",
        stem="visa" if split == "1cls" else f"visa_{split}",
        title=f"VisA ({split})",
        archive=Archive(
            (URL,),
            SHA256,
            SIZE,
            "download VisA_20220922.tar as https://github.com/amazon-science/spot-diff describes "
            f"({SIZE:,} bytes, sha256 {SHA256}) and unpack it",
        ),
        layout=f"split_csv/{split}.csv, candle/Data/Images, candle/Data/Masks, capsules/...",
        scan=lambda root: scan(root, split),
        top_folders=("VisA_20220922", "VisA", "visa", "1cls"),
        runner="run_visa.py",
        named_defects=False,
        official=split == "1cls",
    )


def scan(root: Path, split: str) -> tuple[list[Sample], list[str]]:
    """Return the rows of a split whose images exist, and the faults of such rows.

    Rows without an image only lower the counts. Raise `InputError` if the split file is missing or
    unreadable.
    """
    path = root / "split_csv" / f"{split}.csv"
    if not path.exists() and is_converted(root):
        return scan_converted(root, split)
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise InputError(
            f"--data-root: there is no {path}; give the folder of VisA, which holds split_csv/, "
            "candle/, ..."
        ) from error
    except ValueError as error:  # undecodable or no table
        raise InputError(f"{path} cannot be read as a CSV ({error}); restore it") from error
    missing = [column for column in COLUMNS if column not in rows]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; restore the official file")
    if split == "1cls" and sha256_of(path) != SPLIT_SHA256:
        print(f"warning: {path} is not the official file (its sha256 differs)")
    samples, faults = [], []
    for row in rows[COLUMNS].itertuples(index=False):
        if not (root / row.image).is_file():
            continue  # `check_counts` reports it
        if row.label not in ("normal", "anomaly"):
            faults.append(
                f'{root / row.image}: its label is "{row.label}" (expected normal or anomaly)'
            )
            continue
        label = int(row.label == "anomaly")
        if label and not (root / row.mask).is_file():
            faults.append(f"{root / row.image}: its mask {row.mask or '(empty)'} does not exist")
            continue
        defect, mask = ("anomaly", row.mask) if label else ("good", "")
        samples.append(Sample(row.object, row.split, label, defect, row.image, mask))
    return samples, faults


def is_converted(root: Path) -> bool:
    """Return whether VisA has the folders that spot-diff's prepare_data.py copies it into."""
    return any((root / name / "train" / "good").is_dir() for name in OFFICIAL["visa"])


def scan_converted(root: Path, split: str) -> tuple[list[Sample], list[str]]:
    """Return samples and faults of a converted VisA: <object>/{train,test,ground_truth}.

    The script copies the images of 1cls.csv without encoding them again and sets its masks to 0 or
    255, so the results are those of the original. Raise `InputError` for a two-class split, whose
    masks the script puts into other folders.
    """
    two_class = any((root / name / "ground_truth" / "test").is_dir() for name in OFFICIAL["visa"])
    if split != "1cls" or two_class:
        raise InputError(
            f"{root} is VisA as converted by spot-diff's prepare_data.py, which is used for the "
            f"split 1cls alone; for {split}, give the original folder, which holds split_csv/ and "
            "<object>/Data/"
        )
    print(f"{root} is VisA as converted by spot-diff's prepare_data.py; using its split folders")
    samples, faults = scan_mvtec_layout(root, list(OFFICIAL["visa"]))
    return [replace(s, defect="anomaly") if s.label else s for s in samples], faults


def main() -> None:
    """Parse the options and prepare the split."""
    default = VisaOptions(data_root=default_root("visa"))
    options = parse_options(default, __doc__, Path(__file__))
    prepare(visa(options.split), options)


if __name__ == "__main__":
    run_cli(main)

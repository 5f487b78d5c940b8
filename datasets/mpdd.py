"""Check a raw MPDD folder against the official counts and write its split.

    python datasets/mpdd.py --data-root DIR   # DIR holds bracket_black/, ..., or MPDD/ with them

Decodes every image and mask once. Writes datasets/splits/mpdd.csv, mpdd_meta.json (read by other
repositories of the field) and mpdd_root.txt (the data root, for run_mpdd.py). Never writes into the
image folders. Licence of the data: CC BY-NC-SA 4.0.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: imports start at the project, not at this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

from datasets.download import Archive
from datasets.layouts.mvtec_ad import scan_mvtec_layout
from datasets.official import OFFICIAL
from datasets.prepare import BenchmarkSpec, main

MPDD = BenchmarkSpec(
    name="mpdd",
    stem="mpdd",
    title="MPDD",
    archive=Archive(
        by_hand="open the README of https://github.com/stepanje/MPDD, follow its OneDrive link, "
        "download the folder and unpack it, so that DIR or DIR/MPDD holds bracket_black, "
        "bracket_brown, bracket_white, connector, metal_plate and tubes, each with train/good, "
        "test/<defect> and ground_truth/<defect>; then run this script with --data-root DIR",
    ),
    layout="bracket_black/train/good, bracket_black/test/<defect>, "
    "bracket_black/ground_truth/<defect>, bracket_brown/...",
    scan=lambda root: scan_mvtec_layout(root, list(OFFICIAL["mpdd"])),
    top_folders=("MPDD",),
    runner="run_mpdd.py",
)

if __name__ == "__main__":
    main(MPDD, __doc__, __file__)

"""Check a raw MVTec AD folder against the official counts and write its split.

    python datasets/mvtec.py --data-root DIR              # DIR holds bottle/, cable/, ...
    python datasets/mvtec.py --data-root DIR --download   # download the archive (5 GB) first

Decodes every image and mask once. Writes datasets/splits/mvtec.csv, mvtec_meta.json (read by other
repositories of the field) and mvtec_root.txt (the data root, for run_winclip.py). Never writes into
the image folders. Licence of the data: CC BY-NC-SA 4.0.
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

PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
# The owner moves the file every few months; the old address then returns 404. The second address is
# a copy by a third party; like any archive, it is unpacked only if its sha256 is the official one.
URLS = (
    "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
    "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
    "https://huggingface.co/datasets/ProgrammerGnome/MVTecAD/resolve/main/"
    "mvtec_anomaly_detection.tar.xz",
)
SHA256 = "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"
SIZE = 5_264_982_680  # bytes

MVTEC = BenchmarkSpec(
    name="mvtec",
    stem="mvtec",
    title="MVTec AD",
    archive=Archive(
        URLS,
        SHA256,
        SIZE,
        f"download mvtec_anomaly_detection.tar.xz from {PAGE} ({SIZE:,} bytes, sha256 {SHA256}) "
        "and unpack it",
    ),
    layout="bottle/train/good, bottle/test/<defect>, bottle/ground_truth/<defect>, cable/...",
    scan=lambda root: scan_mvtec_layout(root, list(OFFICIAL["mvtec"])),
    top_folders=("mvtec_anomaly_detection", "mvtec", "MVTec"),
    runner="run_winclip.py",
)

if __name__ == "__main__":
    main(MVTEC, __doc__, __file__)

"""WinCLIP and WinCLIP+ on your own dataset as a benchmark.

    python datasets/folder.py --data-root DIR --name NAME   # once: finds the images, writes a split
    python run_folder.py --name NAME                        # all categories, 0/1/2/4 shots, 5 seeds

Reads datasets/splits/NAME.csv and the images; writes tables, scores, heatmaps and a report to
result/NAME/. Set the constants in this script, or give them as options, such as --shots 0 1. Start
a stopped run again to resume it. docs/own-data.md describes the layouts and the CSV files that
datasets/folder.py reads.
"""

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

from utils.experiment.settings import FolderSettings
from utils.run.benchmark import main

# --------------------------------------------------------------------------------------------------
# What to run: these constants are also options (SHOTS: --shots), and --help lists more
NAME = ""  # the name that you gave to datasets/folder.py
DATA_ROOT = "auto"  # folder of the dataset; "auto": the one found by datasets/folder.py
CATEGORIES = ()  # such as ("gear", "metal_nut"); () for all categories of the split
SHOTS = (0, 1, 2, 4)  # numbers of normal reference images; 0 is WinCLIP, more is WinCLIP+
SEEDS = (0, 1, 2, 3, 4)  # draws of reference images for each number of shots; the paper uses 5
REFERENCES = "draw"  # or a CSV in the format of a run's shots.csv: category, shots, seed, image
LIMIT = None  # use only the first N good images and N of each defect; None for all
# The method
METHOD = "winclip"  # "winclip", or "anomalyclip" or "inctrl" with a checkpoint (docs/protocol.md)
CHECKPOINT = ""  # of AnomalyCLIP or InCTRL: their authors' file, or "random" for a trial
MODEL = "auto"  # "auto": the method's; WinCLIP takes any open_clip ViT with a class token
PRETRAINED = "auto"  # "auto": the method's; or an open_clip tag, a file, a folder, or "random"
PROTOCOL = "paper"  # or "public": what the closest public code does (docs/protocol.md)
# The machine
DEVICE = "auto"  # "auto" (CUDA if available), "cpu", "cuda" or "cuda:1"
PRECISION = "fp32"  # or "bf16"; on CUDA also "tf32" and "fp16"; on CPUs with VNNI also "int8"
BATCH_SIZE = 8  # images decoded and sent to the device together; 1 or more
# The results
MAPS = True  # False: image scores only, about ten times as fast (WinCLIP)
HEATMAPS = "all"  # "all", "none", or the first N of each defect
FEATURES = "auto"  # use kept features; "keep": also write them; "off": neither; or a result folder
RESULT_DIR = "auto"  # "auto": result/NAME/
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    main(globals(), "folder", settings_class=FolderSettings)

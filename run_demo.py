"""WinCLIP and WinCLIP+ on a rendered demo benchmark with a small CLIP: nothing to download.

    python run_demo.py

Renders the benchmark into data/demo/ (once), then runs it like the other runners: 0/1/2/4 shots, 5
seeds; tables, scores, heatmaps and a report in result/demo/. The model (models/demo_clip/) was
trained from scratch on such images, but never on the categories of the group "unseen". Its numbers
show that the program works; they are not comparable with published results. Set the constants in
this script, or give them as options.
"""

from pathlib import Path

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

from datasets.demo import render_if_needed
from utils.experiment.settings import DemoSettings
from utils.run.benchmark import main

# --------------------------------------------------------------------------------------------------
# What to run: these constants are also options (SHOTS: --shots), and --help lists more
DATA_ROOT = "auto"  # folder of the images; "auto": the one rendered last, else data/demo/
CATEGORIES = ()  # such as ("leather", "capsule"); () for all categories of the split
SHOTS = (0, 1, 2, 4)  # numbers of normal reference images; 0 is WinCLIP, more is WinCLIP+
SEEDS = (0, 1, 2, 3, 4)  # draws of reference images for each number of shots; the paper uses 5
REFERENCES = "draw"  # or a CSV in the format of a run's shots.csv: category, shots, seed, image
LIMIT = None  # use only the first N good images and N of each defect; None for all
# The model
MODEL = str(Path(__file__).parent / "models/demo_clip/demo-clip.json")
PRETRAINED = str(Path(__file__).parent / "models/demo_clip/demo-clip.safetensors")
PROTOCOL = "paper"  # or "public": what the closest public code does (docs/protocol.md)
# The machine
DEVICE = "auto"  # "auto" (CUDA if available), "cpu", "cuda" or "cuda:1"
PRECISION = "fp32"  # or "bf16"; on CUDA also "tf32" and "fp16"; on CPUs with VNNI also "int8"
BATCH_SIZE = 8  # images decoded and sent to the device together; 1 or more
NUM_WORKERS = 0  # worker processes, or "auto"; small images are decoded fastest without
# The results
MAPS = True  # False: image scores only, about ten times as fast (WinCLIP)
HEATMAPS = 1  # "all", "none", or the first N of each defect
FEATURES = "auto"  # use kept features; "keep": also write them; "off": neither; or a result folder
RESULT_DIR = "auto"  # "auto": result/demo/
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    main(globals(), "demo", prepare=render_if_needed, settings_class=DemoSettings)

"""WinCLIP and WinCLIP+ on the demo benchmark, with the demo CLIP: nothing to download.

    python run_demo.py

Renders the benchmark into data/demo/ (once), then runs it as the other runners do: 0/1/2/4 shots,
5 seeds; tables, scores and heatmaps in result/demo/. The model (models/demo_clip/) was trained from
scratch on such pictures, but never on the categories of the group "unseen". Its numbers say that
the program works; they are not comparable with published results.
"""

from pathlib import Path

from datasets.demo import make_once
from utils.run.benchmark import main

# --------------------------------------------------------------------------------------------------
# What is run
DATA_ROOT = "auto"  # folder of the pictures; "auto": data/demo/, rendered if needed
CATEGORIES = ()  # such as ("leather", "capsule"); () for all that the split has
SHOTS = (0, 1, 2, 4)  # normal reference images; 0 is zero-shot (WinCLIP), more is WinCLIP+
SEEDS = (0, 1, 2, 3, 4)  # draws of references for each number of shots; the paper has 5
REFERENCES = "draw"  # or a CSV like a run's shots.csv: category, shots, seed, image
LIMIT = None  # only the first N test images of each defect, for a trial; None for all
# The model
MODEL = str(Path(__file__).parent / "models/demo_clip/demo-clip.json")
PRETRAINED = str(Path(__file__).parent / "models/demo_clip/demo-clip.safetensors")
PROTOCOL = "paper"  # or "public": as the public code that comes closest to the paper does it
EXTRA_NORMAL_STATES = ()  # task-specific states: ("capsule: {} with a smooth shell",)
EXTRA_ANOMALOUS_STATES = ()  # the same for damage: ("capsule: {} with a dented shell",)
# The machine
DEVICE = "auto"  # "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"
PRECISION = "fp32"  # "fp32", "bf16"; on CUDA also "tf32", "fp16"; refused where it is not fast
DETERMINISTIC = False  # True: bit-equal reruns on CUDA, some slower; a CPU does so by itself
BATCH_SIZE = 8  # images decoded and sent to the device together; 1 and up
NUM_WORKERS = 0  # processes that decode ahead of the encoder; for small pictures none is fastest
# The results
EVAL_SIZE = 240  # shorter side of maps and masks in the pixel metrics, or "source"
HEATMAPS = 1  # "all", "none", or the first N of each defect
HEATMAP_SIZE = 256  # height of each picture in a heatmap panel, in pixels; 64 and up
RESULT_DIR = "auto"  # "auto": result/demo/
QUIET = False  # True: say nothing but errors; run.log in the result folder has the rest
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    main(globals(), "demo", before=make_once)

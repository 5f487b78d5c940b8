"""WinCLIP and WinCLIP+ on MVTec AD: the paper's tables in one run.

    python datasets/mvtec.py --data-root DIR   # once: checks the dataset and writes its split
    python run_winclip.py                      # all categories, 0/1/2/4 shots, 5 seeds

Reads datasets/splits/mvtec.csv and the images; writes tables, scores and heatmaps to
result/mvtec/. Edit the constants, or override them: python run_winclip.py --shots 0 --categories
bottle grid. A run that was stopped goes on where it was when it is started again.
"""

from utils.run.benchmark import main

# --------------------------------------------------------------------------------------------------
# What is run
DATA_ROOT = "auto"  # folder of the raw MVTec AD; "auto": the one given to datasets/mvtec.py
CATEGORIES = ()  # such as ("bottle", "metal_nut"); () for all that the split has
SHOTS = (0, 1, 2, 4)  # normal reference images; 0 is zero-shot (WinCLIP), more is WinCLIP+
SEEDS = (0, 1, 2, 3, 4)  # draws of references for each number of shots; the paper has 5
REFERENCES = "draw"  # or a CSV like a run's shots.csv: category, shots, seed, image
LIMIT = None  # only the first N test images of each defect, for a trial; None for all
# The model
MODEL = "ViT-B-16-plus-240"  # the paper's; any open_clip vision transformer with a class token
PRETRAINED = "laion400m_e31"  # open_clip tag, weight file, folder of a model repository, "random"
PROTOCOL = "paper"  # or "public": as the public code that comes closest to the paper does it
EXTRA_NORMAL_STATES = ()  # task-specific states: ("screw: {} with a clean thread",)
EXTRA_ANOMALOUS_STATES = ()  # the same for damage: ("screw: {} with a stripped thread",)
# The machine
DEVICE = "auto"  # "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"
PRECISION = "fp32"  # "fp32", "bf16"; on CUDA also "tf32", "fp16"; refused where it is not fast
DETERMINISTIC = False  # True: bit-equal reruns on CUDA, some slower; a CPU does so by itself
BATCH_SIZE = 8  # images decoded and sent to the device together; 1 and up
NUM_WORKERS = 2  # processes that decode ahead of the encoder; 0 decodes in between
# The results
EVAL_SIZE = 240  # shorter side of maps and masks in the pixel metrics, or "source"
HEATMAPS = "all"  # "all", "none", or the first N of each defect
HEATMAP_SIZE = 256  # height of each picture in a heatmap panel, in pixels; 64 and up
RESULT_DIR = "auto"  # "auto": result/mvtec/
QUIET = False  # True: say nothing but errors; run.log in the result folder has the rest
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    main(globals(), "mvtec")

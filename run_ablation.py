"""Ablation: what does each difference from the paper cost?

    python run_ablation.py                     # the demo benchmark, on any machine
    python run_ablation.py --dataset mvtec     # after python datasets/mvtec.py --data-root DIR

Encodes every image once and scores it under every combination of the protocol's settings and under
single departures from the paper's equations and prompts. Writes ablation.csv (every number),
ablation.md, ablation.tex and ablation.html to result/ablation/<dataset>/ (docs/ablation.md). Set
the constants in this script, or give them as options. Start a stopped ablation again to resume it.
"""

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

from utils.ablation.run import main

# --------------------------------------------------------------------------------------------------
# What to run: these constants are also options (SHOTS: --shots), and --help lists more
DATASET = "demo"  # "demo", "mvtec", "visa", "mpdd" or "folder"
NAME = ""  # with "folder": the name that you gave to datasets/folder.py
CATEGORIES = ()  # such as ("bottle", "metal_nut"); () for all categories of the split
SHOTS = (0, 1)  # numbers of normal reference images; 0 is WinCLIP, more is WinCLIP+
SEEDS = (0, 1, 2)  # draws of reference images for each number of shots
LIMIT = None  # use only the first N good images and N of each defect; None for all
MULTI_CROPS = ("five",)  # also "ten", "overlap-1.25", "overlap-1.5" and "overlap-2"; () for none
# The walk from the public implementation to the paper: its switches in any order; those that you
# leave out follow in this order
ORDER = ("templates", "class_words", "normalise_prompts", "patch_tokens", "resize")
# The model
MODEL = "auto"  # "auto": the paper's, or the demo's; or any open_clip vision transformer
PRETRAINED = "auto"  # "auto": the paper's weights, or the demo's; or as in run_winclip.py
# The machine
DEVICE = "auto"  # "auto" (CUDA if available), "cpu", "cuda" or "cuda:1"
PRECISION = "fp32"  # or "bf16"; on CUDA also "tf32" and "fp16"; on CPUs with VNNI also "int8"
BATCH_SIZE = 8  # images decoded and sent to the device together; 1 or more
# The results
RESULT_DIR = "auto"  # "auto": result/ablation/<dataset>/
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    main(globals())

"""WinCLIP and WinCLIP+ on your own pictures.

    python run_custom.py --images DIR --class-name "metal nut"
    python run_custom.py --images DIR --class-name "metal nut" --references GOOD_DIR

Reads a folder of pictures, or one picture; writes scores (CSV and JSON), heatmaps and a report to
result/custom/<name of the folder>/. With references, pictures of good pieces, it scores by WinCLIP+
and offers a threshold, in <name of the folder>-with-references/. Edit the constants, or override
them as above.
"""

from utils.run.custom import main

# --------------------------------------------------------------------------------------------------
# What is run
IMAGES = ""  # a picture or a folder; with a subfolder "good", subfolders are labels: metrics too
CLASS_NAME = ""  # what the pictures show, in English words: "metal nut"
REFERENCES = ""  # folder of pictures of good pieces (2 and up for a threshold); "": zero-shot
MASKS = ""  # folder of masks named like the pictures: pixel metrics too; "" for none
# The model
MODEL = "ViT-B-16-plus-240"  # the paper's; any open_clip vision transformer with a class token
PRETRAINED = "laion400m_e31"  # open_clip tag, weight file, folder of a model repository, "random"
PROTOCOL = "paper"  # or "public": as the public code that comes closest to the paper does it
EXTRA_NORMAL_STATES = ()  # further states: ("metal nut: {} with a clean thread",)
EXTRA_ANOMALOUS_STATES = ()  # the same for damage: ("metal nut: {} with rust",)
# The machine
DEVICE = "auto"  # "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"
PRECISION = "fp32"  # "fp32", "bf16"; on CUDA also "tf32", "fp16"; refused where it is not fast
DETERMINISTIC = False  # True: bit-equal reruns on CUDA, some slower; a CPU does so by itself
BATCH_SIZE = 8  # images decoded and sent to the device together; 1 and up
NUM_WORKERS = 2  # processes that decode ahead of the encoder; 0 decodes in between
# The results
EVAL_SIZE = 240  # shorter side of maps and masks in the pixel metrics, or "source"
HEATMAPS = "all"  # "all", "none", or the first N of each folder
HEATMAP_SIZE = 256  # height of each picture in a heatmap panel, in pixels; 64 and up
RESULT_DIR = "auto"  # "auto": result/custom/<name of IMAGES>/, or ...-with-references/
QUIET = False  # True: say nothing but errors; run.log in the result folder has the rest
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    main(globals())

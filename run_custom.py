"""WinCLIP and WinCLIP+ on your own images.

    python run_custom.py --images DIR --class-name "metal nut"
    python run_custom.py --images DIR --class-name "metal nut" --references GOOD_DIR

Reads an image or a folder of images; writes scores (CSV and JSON), heatmaps and a report to
result/custom/<name of the folder>/. With reference images of good parts, it scores with WinCLIP+
and offers a threshold; the results are then in <name of the folder>-with-references/. Set the
constants in this script, or give them as options as above.
"""

import utils.startup  # first: handles Ctrl-C and broken packages during the imports

from utils.run.custom import main

# --------------------------------------------------------------------------------------------------
# What to run: these constants are also options (IMAGES: --images), and --help lists more
IMAGES = ""  # an image or a folder; with a subfolder "good", subfolder names are labels
GOOD_FOLDER = ""  # name of that subfolder, if it is not "good", "ok", "pass", "normal" or the like
RECURSIVE = False  # True: include the images in all subfolders, such as folders by date
CLASS_NAME = ""  # what the images show, in English words: "metal nut"
REFERENCES = ""  # folder of images of good parts (2 or more for a threshold); "": zero-shot only
MASKS = ""  # masks for pixel metrics: a folder, or a file; "": those inside IMAGES, if any
FALSE_ALARMS = None  # share of good images that may exceed the threshold, such as 0.05; or None
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
HEATMAPS = "all"  # "all", "none", or the first N of each folder
FEATURES = "auto"  # use kept features; "keep": also write them; "off": neither; or a result folder
RESULT_DIR = "auto"  # "auto": result/custom/<name of IMAGES>/, or ...-with-references/
# --------------------------------------------------------------------------------------------------

if __name__ == "__main__":
    main(globals())

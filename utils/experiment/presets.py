"""The settings that PROTOCOL, METHOD and MAPS determine.

`Settings.resolve` takes the value of a setting from the first of these that has one:

1. FIXED and WITHOUT_MAPS, for the given METHOD and for runs without maps. They leave no choice, so
   another value is refused instead of ignored (`utils.experiment.rules`).
2. The command line, then the constants of the runner.
3. PRESETS, for the given PROTOCOL, where a setting is None; BACKBONES (models/methods.py), for the
   given METHOD, where MODEL or PRETRAINED is "auto".
4. The default in `Settings`.

A setting that a method does not have is recorded with the value in NOT_WINCLIP: None, or where its
type does not allow that, a value that means "not applicable", such as "paper" for PROTOCOL.
LATER_SETTINGS (utils/results/folder.py) changes no value: it completes records of earlier versions.
"""

from models.clip.weights import IN_CHECKPOINT
from models.methods import MethodName

# What --protocol sets: the paper's choices, and those of the closest public code, Accurate-WinCLIP.
# docs/protocol.md explains each field.
PAPER = {
    "templates": "paper",
    "class_words": True,
    "normalise_prompts": True,
    "temperature": 0.07,
    "patch_tokens": "post_ln",
    "resize": "tile",
    "multi_crop": "none",
    "multi_crop_average": "embeddings",
}
PUBLIC = PAPER | {
    "templates": "public",
    "class_words": False,
    "normalise_prompts": False,
    "patch_tokens": "pre_ln",
    "resize": "squash",
}
PRESETS = {"paper": PAPER, "public": PUBLIC}
DEFAULT = object()  # in the tables below: the default of the setting
# The settings of WinCLIP, as they are recorded for a method that does not have them.
NOT_WINCLIP = {
    **dict.fromkeys(PAPER),
    **dict.fromkeys(("protocol", "tile", "features_precision"), DEFAULT),
    **dict.fromkeys(("extra_normal_states", "extra_anomalous_states"), DEFAULT),
    "multi_crop": "none",
    "multi_crop_average": "embeddings",
    "scales": (),
    "features": "off",
}
# The settings of each method that do not depend on the user. AnomalyCLIP has no reference images,
# InCTRL no maps.
FIXED: dict[MethodName, dict] = {
    "winclip": {"checkpoint": ""},
    "anomalyclip": {**NOT_WINCLIP, "resize": "squash", "references": DEFAULT, "maps": True},
    "inctrl": {
        **NOT_WINCLIP,
        "templates": "paper",
        "class_words": True,
        "resize": "centre_crop",
        "maps": False,
        "pretrained": IN_CHECKPOINT,
    },
}
# The settings of a run without maps that do not depend on the user.
WITHOUT_MAPS = {
    **dict.fromkeys(("eval_size", "extra_metrics", "heatmap_size", "coco", "masks"), DEFAULT),
    "heatmaps": "none",
    "scales": (),
}

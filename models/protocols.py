"""Where the paper and the public implementations differ: fields with names, and two presets.

`paper` follows arXiv 2303.14814. `public` does what Accurate-WinCLIP does, so that its published
tables can be matched. A field that is not named here is the same in both.
"""

from dataclasses import dataclass
from typing import Literal

Templates = Literal["paper", "public"]
PatchTokens = Literal["post_ln", "pre_ln", "penultimate"]
Resize = Literal["tile", "squash"]


@dataclass(frozen=True)
class Protocol:
    """One way of doing WinCLIP."""

    # "paper": 22 distinct templates; "public": 21 entries, one twice and two missing.
    templates: Templates
    # Write "metal nut" for "metal_nut" in prompts.
    class_words: bool
    # Give each prompt embedding length 1 before the ensemble is averaged.
    normalise_prompts: bool
    # The softmax temperature of equation 1.
    temperature: float
    # The tokens that WinCLIP+ compares: of the last block, after ("post_ln") or before ("pre_ln")
    # the tower's last normalisation, or of the block before it ("penultimate").
    patch_tokens: PatchTokens
    # Images that are not square: shorter side to the model's size and overlapping square tiles,
    # or squashed to one square.
    resize: Resize


PRESETS: dict[str, Protocol] = {
    "paper": Protocol("paper", True, True, 0.07, "post_ln", "tile"),
    "public": Protocol("public", False, False, 0.07, "pre_ln", "squash"),
}

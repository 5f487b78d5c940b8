"""The variants of an ablation: every corner of the protocol, and single departures from `paper`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from datasets.tiles import CropVariant
from models.clip.features import PatchTokens
from models.departures import IMAGE, PATCHES, Equations
from models.winclip import CropAverage
from utils.experiment.presets import PAPER, PUBLIC

Switch = Literal["templates", "class_words", "normalise_prompts", "patch_tokens", "resize"]
SWITCHES: tuple[Switch, ...] = get_args(Switch)  # of the walk: where PAPER and PUBLIC differ
FEW_SHOT_SWITCH: Switch = "patch_tokens"  # changes nothing in 0-shot
TEMPERATURES = (0.07, 0.01)  # CLIP's initial value, and the one to which it converged
MULTI_CROPS = {  # the names of the departures that use crops, with what they change
    f"multi-crop {variant}, {average}": {"multi_crop": variant, "multi_crop_average": average}
    for variant, average in product(get_args(CropVariant), get_args(CropAverage))
}
# The paper's own ablation on MVTec AD, 0-shot (arXiv 2303.14814): variant to metric to percent. Its
# full method has multi-crop, undefined; the row before that has our prompts of `paper`.
PAPER_ROWS = {
    "two-class prompts": {"image_auroc": 74.0},
    "without templates": {"image_auroc": 89.8},
    "paper": {"image_auroc": 90.8, "pixel_auroc": 85.1},
    "arithmetic averaging": {"pixel_auroc": 81.5},
    "without the image scale": {"pixel_auroc": 82.0},
    **{name: {"image_auroc": 91.8} for name in MULTI_CROPS},
}


@dataclass(frozen=True)
class Variant:
    """One way to score a category from the same embeddings."""

    kind: Literal["corner", "departure"]
    name: str
    protocol: Mapping[str, object]  # the value of each setting in PRESETS
    equations: Equations | None = None  # None: those of `models.winclip`
    states: bool = True  # False: the two classes are "normal" and "anomalous"
    templates: bool = True  # False: prompts are the states themselves
    needs_references: bool = False  # True: the same as `paper` in 0-shot

    @property
    def acts_without_references(self) -> bool:
        """Return whether no variant with the paper's patch tokens has the same 0-shot results."""
        same = self.protocol[FEW_SHOT_SWITCH] == PAPER[FEW_SHOT_SWITCH]
        return same and not self.needs_references


def corners(resizes: Sequence[str]) -> list[Variant]:
    """Return every combination of the protocol's values.

    `resizes` are those that were encoded: ("tile",) where all images are square, so that the other
    value changes nothing.
    """
    values = {name: dict.fromkeys((PAPER[name], PUBLIC[name])) for name in PAPER}
    values |= {"patch_tokens": get_args(PatchTokens), "resize": resizes}
    values |= {"temperature": TEMPERATURES}
    protocols = [dict(zip(values, row, strict=True)) for row in product(*values.values())]
    public = PUBLIC | ({} if PUBLIC["resize"] in resizes else {"resize": PAPER["resize"]})
    return [
        Variant("corner", "public" if protocol == public else corner_name(protocol), protocol)
        for protocol in protocols
    ]


def corner_name(protocol: Mapping[str, object]) -> str:
    """Name a corner by its differences from `paper`.

    >>> corner_name(PAPER), corner_name(PAPER | {"temperature": 0.01, "resize": "squash"})
    ('paper', 'temperature=0.01 resize=squash')
    """
    if protocol == PAPER:
        return "paper"
    return " ".join(f"{name}={protocol[name]}" for name in PAPER if protocol[name] != PAPER[name])


def departures(scales: Sequence[int], multi_crops: Sequence[CropVariant] = ()) -> list[Variant]:
    """Return the departures from `paper` that the paper's ablation or public implementations have.

    Those with crops are of the variants in `multi_crops`.
    """

    def depart(name: str, needs_references: bool = False, **changes: object) -> Variant:
        return Variant("departure", name, PAPER, **changes, needs_references=needs_references)

    def equations(name: str, needs_references: bool = False, **changes: object) -> Variant:
        return depart(name, needs_references, equations=Equations(**changes))

    windows = [
        equations(f"{size} x {size} windows alone", zero_shot_scales=(size,), visual_scales=(size,))
        for size in scales
    ]
    return [
        depart("two-class prompts", states=False, templates=False),
        depart("without states", states=False),
        depart("without templates", templates=False),
        equations("arithmetic averaging", average="arithmetic"),
        equations("one minus the harmonic mean of normality", average="normality"),
        equations("without the image scale", zero_shot_scales=tuple(scales)),
        equations("image scale alone", zero_shot_scales=(IMAGE,)),
        *windows,
        equations("patches alone in the visual map", True, visual_scales=(PATCHES,)),
        equations("without language", True, language=False),
        equations("sum of the two maps", True, maps="sum"),
        *(
            Variant("departure", name, PAPER | changes)
            for name, changes in MULTI_CROPS.items()
            if changes["multi_crop"] in multi_crops
        ),
    ]


def single_changes(variants: Sequence[Variant]) -> list[Variant]:
    """Return the corners that differ from `paper` in one setting."""
    return [
        variant
        for variant in variants
        if variant.kind == "corner"
        and sum(variant.protocol[name] != PAPER[name] for name in PAPER) == 1
    ]

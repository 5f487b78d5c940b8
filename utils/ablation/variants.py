"""The variants of an ablation: every corner of the protocol, and single departures from `paper`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from datasets.tiles import CropVariant
from models.clip.features import PatchTokens
from models.departures import IMAGE, PATCHES, Equations
from models.winclip import CropAverage
from utils.evaluation.metrics import IMAGE_METRICS, METRICS, PIXEL_METRICS
from utils.experiment.presets import PAPER, PUBLIC

Switch = Literal["templates", "class_words", "normalise_prompts", "patch_tokens", "resize"]
SWITCHES: tuple[Switch, ...] = get_args(Switch)  # of the walk: where PAPER and PUBLIC differ
FEW_SHOT_SWITCH: Switch = "patch_tokens"  # changes nothing in 0-shot
TEMPERATURES = (0.07, 0.01)  # CLIP's initial value, and the one to which it converged
MULTI_CROPS = {  # the names of the departures that use crops, with what they change
    f"multi-crop {variant}, {average}": {"multi_crop": variant, "multi_crop_average": average}
    for variant, average in product(get_args(CropVariant), get_args(CropAverage))
}
# For each switch its name, what the closest public implementation does, and what the paper does.
MEANINGS = {
    "templates": (
        "prompt templates",
        "21 prompt templates, one of them twice",
        "the paper's 22 prompt templates",
    ),
    "class_words": (
        "class names",
        'class names as "metal_nut"',
        'class names as words: "metal nut"',
    ),
    "normalise_prompts": (
        "normalised prompts",
        "prompt embeddings averaged as they are",
        "each prompt embedding scaled to length 1 before averaging",
    ),
    "patch_tokens": (
        "patch tokens",
        "patch tokens before the last layer norm (WinCLIP+ only)",
        "patch tokens after the last layer norm (WinCLIP+ only)",
    ),
    "resize": (
        "resizing",
        "images squashed to a square",
        "images cut into overlapping square tiles",
    ),
}
# The values of settings that differ from the paper's, as they are in the names of corners.
DIFFERENCES = {
    "templates=public": "21 public templates",
    "class_words=False": 'class names as "metal_nut"',
    "normalise_prompts=False": "prompts not normalised",
    "temperature=0.01": "temperature 0.01",
    "patch_tokens=pre_ln": "patch tokens before the last layer norm",
    "patch_tokens=penultimate": "patch tokens of the penultimate block",
    "resize=squash": "squashed images",
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
    zero_shot_metrics: Sequence[str] = METRICS  # that can differ from those of `paper`, 0-shot
    few_shot_metrics: Sequence[str] = METRICS  # the same with reference images
    equations: Equations | None = None  # None: those of `models.winclip`
    states: bool = True  # False: the two classes are "normal" and "anomalous"
    templates: bool = True  # False: prompts are the states themselves

    @property
    def needs_references(self) -> bool:
        """Return whether the variant is the same as `paper` in 0-shot."""
        return not self.zero_shot_metrics

    @property
    def in_zero_shot_tables(self) -> bool:
        """Return whether 0-shot tables list the variant.

        Patch tokens do not act in 0-shot: of the variants that differ only in them, the one with
        the paper's is listed.
        """
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

    def depart(name: str, **changes: object) -> Variant:
        return Variant("departure", name, PAPER, **changes)

    def equations(
        name: str, zero_shot: Sequence[str], few_shot: Sequence[str], **changes: object
    ) -> Variant:
        return Variant("departure", name, PAPER, zero_shot, few_shot, Equations(**changes))

    def windows_alone(size: int) -> Variant:
        scales = {"zero_shot_scales": (size,), "visual_scales": (size,)}
        return equations(f"{size} x {size} windows alone", PIXEL_METRICS, METRICS, **scales)

    crops = [
        Variant("departure", name, PAPER | changes, IMAGE_METRICS, IMAGE_METRICS)
        for name, changes in MULTI_CROPS.items()
        if changes["multi_crop"] in multi_crops
    ]
    maps = PIXEL_METRICS, PIXEL_METRICS  # of changes that enter no image score
    return [
        depart("two-class prompts", states=False, templates=False),
        depart("without states", states=False),
        depart("without templates", templates=False),
        equations("arithmetic averaging", PIXEL_METRICS, METRICS, average="arithmetic"),
        equations("one minus the harmonic mean of normality", *maps, average="normality"),
        equations("without the image scale", *maps, zero_shot_scales=tuple(scales)),
        equations("image scale alone", *maps, zero_shot_scales=(IMAGE,)),
        *map(windows_alone, scales),
        equations("patches alone in the visual map", (), METRICS, visual_scales=(PATCHES,)),
        equations("without language", (), METRICS, language=False),
        equations("sum of the two maps", (), PIXEL_METRICS, maps="sum"),
        *crops,
    ]


def single_changes(variants: Sequence[Variant]) -> list[Variant]:
    """Return the corners that differ from `paper` in one setting."""
    return [
        variant
        for variant in variants
        if variant.kind == "corner"
        and sum(variant.protocol[name] != PAPER[name] for name in PAPER) == 1
    ]


def switch_name(setting: str) -> str:
    """Return the name of a switch in words."""
    return MEANINGS[setting][0]


def variant_name(variant: str) -> str:
    """Return the name of a variant with its settings in words.

    >>> variant_name("temperature=0.01 resize=squash"), variant_name("without states")
    ('temperature 0.01, squashed images', 'without states')
    """
    words = variant.split()
    return ", ".join(map(DIFFERENCES.get, words)) if DIFFERENCES.keys() >= {*words} else variant

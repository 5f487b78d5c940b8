"""Score images in every variant from the same features, computing once what variants share.

Corners call the functions of `models.winclip` with the same arguments as a run with their settings
does, so on a CPU their scores equal that run's bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

import torch
from torch import Tensor

from models.clip.encoder import AllFeatures, PatchTokens
from models.clip.text import encode_states
from models.clip.weights import LoadedClip
from models.departures import (
    depart_few_shot,
    depart_visual_maps,
    depart_zero_shot,
    reduced_ensemble,
)
from models.prompts import spaced_words
from models.winclip import (
    Features,
    TextBank,
    VisualBank,
    add_visual_maps,
    average_scales,
    nearest_distances,
    score_zero_shot,
    visual_association_score,
)
from utils.ablation.variants import Variant
from utils.run.session import compose_prompts
from utils.run.settings import Settings

KindFeatures = Mapping[PatchTokens, Features]  # of the same images, one for each kind of patches


@dataclass(frozen=True)
class VariantScorer:
    """The banks of one category, ready to score its images in V variants and R runs."""

    variants: Sequence[Variant]
    banks: Sequence[TextBank]  # one per variant; those that are equal are the same object
    visual: Mapping[PatchTokens, VisualBank]  # empty without reference images
    reference_sets: Sequence[Tensor | None]  # rows of the visual banks for each run; None: 0-shot

    def score(self, features: AllFeatures) -> tuple[Tensor, Tensor]:
        """Return scores (V * R, B) and maps (V * R, B, G_h, G_w), variant by variant."""
        kinds = select_kinds(features)
        plain = next(iter(kinds.values()))
        banks = {id(bank): bank for bank in self.banks}
        nearest = self.nearest(kinds)

        @cache
        def zero_shot(bank, equations, multi_crop, average):
            if equations is not None:
                return depart_zero_shot(plain, banks[bank], equations)
            crops = None if multi_crop == "none" else features.crops[multi_crop].float()
            return score_zero_shot(replace(plain, crops=crops), banks[bank], average)

        @cache
        def visual_maps(kind, equations):
            if equations is None:
                return average_scales(nearest[kind], plain.grid, plain.scales)
            return depart_visual_maps(nearest[kind], plain.grid, plain.scales, equations)

        outputs = []
        for variant, bank in zip(self.variants, self.banks, strict=True):
            equations, kind = variant.equations, variant.protocol["patch_tokens"]
            crops = variant.protocol["multi_crop"], variant.protocol["multi_crop_average"]
            from_text, few_shot = zero_shot(id(bank), equations, *crops), iter(())
            if nearest:
                maps = visual_maps(kind, equations)
                add = add_visual_maps if equations is None else depart_few_shot
                extra = () if equations is None else (equations,)
                few_shot = zip(*add(from_text, maps, *extra), strict=True)
            outputs += [
                from_text if rows is None else next(few_shot) for rows in self.reference_sets
            ]
        scores, maps = map(torch.stack, zip(*outputs, strict=True))
        return scores, maps

    def nearest(self, features: KindFeatures) -> dict[PatchTokens, list[Tensor]]:
        """Return `nearest_distances` for each kind of patch tokens; the windows are shared."""
        sets = [rows for rows in self.reference_sets if rows is not None]
        if not sets:
            return {}
        kind = next(iter(self.visual))
        pairs = zip(features[kind].windows, self.visual[kind].entries[:-1], strict=True)
        windows = [visual_association_score(*pair) for pair in pairs]
        return {
            kind: nearest_distances(
                [*windows, visual_association_score(features[kind].patches, visual.entries[-1])],
                sets,
            )
            for kind, visual in self.visual.items()
        }


def select_kinds(features: AllFeatures) -> KindFeatures:
    """Return features with each kind of patch tokens."""
    return {kind: features.select(kind) for kind in get_args(PatchTokens)}


def variant_prompts(
    variant: Variant, category: str, settings: Settings
) -> tuple[list[str], list[str]]:
    """Return the normal and the anomalous prompts of a variant."""
    if variant.states and variant.templates:
        return compose_prompts(replace(settings, **variant.protocol), category)
    return reduced_ensemble(spaced_words(category), variant.states, variant.templates)


def text_banks(
    variants: Sequence[Variant], category: str, settings: Settings, clip: LoadedClip
) -> list[TextBank]:
    """Return the text bank of each variant; those with the same prompts and settings are shared.

    `settings` are those of a run; its protocol is replaced by that of each variant.
    """

    @cache
    def embeddings(*prompts):
        return encode_states(clip.model, clip.tokenizer, *prompts)

    @cache
    def bank(prompts, temperature, normalise):
        return TextBank.from_prompts(*embeddings(*prompts), temperature, normalise)

    banks = []
    for variant in variants:
        protocol = variant.protocol
        key = tuple(map(tuple, variant_prompts(variant, category, settings)))
        banks.append(bank(key, protocol["temperature"], protocol["normalise_prompts"]))
    return banks

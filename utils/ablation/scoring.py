"""Score images in every variant from the same features, computing once what variants share.

Corners call the functions of `models.winclip` with the same arguments as a run with their settings
does, so on a CPU their scores equal that run's bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import get_args

import torch
from torch import Tensor

from models.clip.features import AllFeatures, PatchTokens
from models.clip.text import encode_text
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
from utils.experiment.settings import Settings
from utils.run.session import compose_prompts

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
            from_text = zero_shot(id(bank), equations, *crops)
            few_shot = iter(())
            if nearest:
                from_images = visual_maps(kind, equations)
                if equations is None:
                    scored = add_visual_maps(from_text, from_images)
                else:
                    scored = depart_few_shot(from_text, from_images, equations)
                few_shot = zip(*scored, strict=True)
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

    `settings` are those of a run; its protocol is replaced by that of each variant. The public
    templates are among the paper's, so one pass of the text tower serves both.
    """
    prompts = [variant_prompts(variant, category, settings) for variant in variants]
    # Departures are apart: longer prompts in a pass change the last bits of all others.
    groups = [(v.states and v.templates, v.protocol["class_words"]) for v in variants]
    encoded_together: dict[tuple, dict[str, None]] = {}  # dictionaries keep the order
    for group, states in zip(groups, prompts, strict=True):
        encoded_together.setdefault(group, {}).update(dict.fromkeys(chain(*states)))

    @cache
    def embeddings(texts):
        return dict(zip(texts, encode_text(clip.model, clip.tokenizer, texts), strict=True))

    @cache
    def bank(group, normal, anomalous, temperature, normalise):
        by_prompt = embeddings(tuple(encoded_together[group]))
        states = (torch.stack([by_prompt[text] for text in texts]) for texts in (normal, anomalous))
        return TextBank.from_prompts(*states, temperature, normalise)

    return [
        bank(group, *map(tuple, states), v.protocol["temperature"], v.protocol["normalise_prompts"])
        for v, group, states in zip(variants, groups, prompts, strict=True)
    ]

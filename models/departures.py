"""Departures from WinCLIP: equations and prompts of ablations and of other implementations.

Each departure is a value of `Equations`, whose defaults are those of `models.winclip`, or a
smaller prompt ensemble. Names and shapes are those of `models.winclip`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.prompts import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES, compose
from models.winclip import Features, TextBank, add_visual_maps
from models.windows import harmonic_aggregation, harmonic_mean, sum_over_covering

IMAGE, PATCHES = "image", "patches"  # the scales that are not windows

Scale = Literal["image", "patches"] | int  # windows are named by their size in patches


@dataclass(frozen=True)
class Equations:
    """Choices in the equations of section 4 and 5."""

    average: Literal["harmonic", "arithmetic", "normality"] = "harmonic"
    """Mean over windows and scales; "normality": one minus the harmonic mean of normality."""
    zero_shot_scales: tuple[Scale, ...] = ()  # that the zero-shot map averages; () for all
    visual_scales: tuple[Scale, ...] = ()  # that the visual map averages; () for all
    language: bool = True  # False: the scores of WinCLIP+ are those of the visual bank alone
    maps: Literal["mean", "sum"] = "mean"  # how WinCLIP+ combines its two maps


def depart_zero_shot(
    features: Features, text: TextBank, equations: Equations
) -> tuple[Tensor, Tensor]:
    """Return scores (B,) and maps (B, G_h, G_w) like `score_zero_shot`."""
    scores = text.score(features.image)
    normality = equations.average == "normality"
    used = equations.zero_shot_scales or (IMAGE, *features.scales)

    def values(embeddings: Tensor) -> Tensor:
        anomaly = text.score(embeddings)
        return 1 - anomaly if normality else anomaly

    maps = []
    if IMAGE in used:
        maps.append(values(features.image)[:, None, None].expand(-1, *features.grid))
    aggregate = aggregation(equations)
    for windows, size in zip(features.windows, features.scales, strict=True):
        if size in used:
            maps.append(aggregate(values(windows), features.grid, size))
    stack = torch.stack(maps)
    mean = stack.mean(dim=0) if equations.average == "arithmetic" else harmonic_mean(stack)
    return scores, 1 - mean if normality else mean


def depart_visual_maps(
    distances: Sequence[Tensor],
    grid: tuple[int, int],
    scales: Sequence[int],
    equations: Equations,
) -> Tensor:
    """Return the map of the visual bank, (..., G_h, G_w), like `average_scales`."""
    *windows, patches = distances
    used = equations.visual_scales or (*scales, PATCHES)
    maps = [patches.unflatten(-1, grid)] if PATCHES in used else []
    aggregate = aggregation(equations)
    for scores, size in zip(windows, scales, strict=True):
        if size in used:
            maps.append(aggregate(scores, grid, size))
    return torch.stack(maps).mean(dim=0)


def depart_few_shot(
    zero_shot: tuple[Tensor, Tensor], visual_maps: Tensor, equations: Equations
) -> tuple[Tensor, Tensor]:
    """Return WinCLIP+'s scores (R, B) and maps (R, B, G_h, G_w) like `add_visual_maps`."""
    if not equations.language:
        return visual_maps.amax(dim=(-2, -1)), visual_maps
    scores, maps = add_visual_maps(zero_shot, visual_maps)
    return scores, zero_shot[1] + visual_maps if equations.maps == "sum" else maps


def arithmetic_aggregation(scores: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Give each patch the arithmetic mean of the scores of all windows that cover it.

    Shapes as in `harmonic_aggregation`.

    >>> arithmetic_aggregation(torch.tensor([1.0, 0.5, 0.25, 0.5]), (3, 3), 2)
    tensor([[1.0000, 0.7500, 0.5000],
            [0.6250, 0.5625, 0.5000],
            [0.2500, 0.3750, 0.5000]])
    """
    height, width = grid
    windows = scores.reshape(-1, 1, height - size + 1, width - size + 1)
    covering = sum_over_covering(torch.ones_like(windows[:1]), size)
    return (sum_over_covering(windows, size) / covering).reshape(*scores.shape[:-1], *grid)


def aggregation(equations: Equations) -> Callable[[Tensor, tuple[int, int], int], Tensor]:
    """Return the function that averages the windows over each patch (equation 3)."""
    arithmetic = equations.average == "arithmetic"
    return arithmetic_aggregation if arithmetic else harmonic_aggregation


def reduced_ensemble(name: str, states: bool, templates: bool) -> tuple[list[str], list[str]]:
    """Compose the normal and anomalous prompts without the states, the templates, or both.

    Without states, the two classes are "normal" and "anomalous"; without either, they are all of
    the prompts, as in the paper's ablation:

    >>> reduced_ensemble("bottle", states=False, templates=False)
    (['normal bottle'], ['anomalous bottle'])
    """
    normal = NORMAL_STATES if states else ("normal {}",)
    anomalous = ANOMALOUS_STATES if states else ("anomalous {}",)
    used = TEMPLATES if templates else ("{}",)
    return compose(name, normal, used), compose(name, anomalous, used)

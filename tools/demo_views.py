"""The pictures that the demo CLIP is trained on: rendered once, then cut into views with labels.

A view is what the model sees of a picture: all of it, or a window of 2 x 2 or 3 x 3 patches. Its
label says whether the defect is in it, from the exact mask.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.render.catalogue import CATEGORIES, render, seeded_generator

IGNORE = -1  # label of a view that shows too little of a defect to be called either way


@dataclass(frozen=True)
class Pool:
    """Rendered pictures of the training products."""

    names: tuple[str, ...]
    pictures: np.ndarray  # (P, S, S, 3) uint8
    masks: np.ndarray  # (P, S, S) bool
    product: np.ndarray  # (P,) int: index into names


def make_pool(per_product: int, variety: int, seed: int, workers: int) -> Pool:
    """Render pictures of every product but the unseen ones, half of them good.

    `per_product` of each, `variety` times as many where every picture shows another product.
    """
    names = tuple(name for name, product in CATEGORIES.items() if product.role != "unseen")
    counts = [per_product * (variety if CATEGORIES[name].varied else 1) for name in names]
    jobs = [
        (name, k, seed) for name, count in zip(names, counts, strict=True) for k in range(count)
    ]
    with ThreadPoolExecutor(workers) as executor:  # NumPy and OpenCV work outside Python's lock
        made = list(executor.map(render_job, jobs))
    pictures, masks = zip(*made, strict=True)
    product = np.repeat(np.arange(len(names)), counts)
    return Pool(names, np.stack(pictures), np.stack(masks), product)


def render_job(job: tuple[str, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One picture of the pool and its mask."""
    name, number, seed = job
    rng = seeded_generator("pool", seed, name, number)
    kinds = CATEGORIES[name].defects
    defect = kinds[number // 2 % len(kinds)] if number % 2 else None
    return render(name, defect, rng, spread=float(rng.choice((1.0, 2.0, 3.0))))


def augmented(
    picture: np.ndarray, mask: np.ndarray, size: int, closest: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A square cut of the picture at `size`, flipped, turned and recoloured; the same of its mask.

    (S, S, 3) uint8 and (S, S) bool in; (size, size, 3) float32 about [0, 1] and (size, size) bool
    out. The cut is `closest` to 1 of the picture's side, and holds the defect where there is one.
    """
    side = int(len(picture) * rng.uniform(closest, 1.0))
    top, left = rng.integers(0, len(picture) - side + 1, 2)
    if mask.any():
        rows, columns = np.nonzero(mask)
        chosen, off = rng.integers(len(rows)), side * rng.uniform(0.2, 0.8, 2)
        at = np.array([rows[chosen], columns[chosen]]) - off
        top, left = np.clip(at, 0, len(picture) - side).astype(int)
    cut = slice(top, top + side), slice(left, left + side)
    way = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC  # by area, enlarging is blocky
    pixels = cv2.resize(picture[cut], (size, size), interpolation=way)
    where = cv2.resize(mask[cut].astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    turns = rng.integers(4)
    pixels, where = np.rot90(pixels, turns), np.rot90(where, turns)
    if rng.random() < 0.5:
        pixels, where = pixels[:, ::-1], where[:, ::-1]
    mix = np.eye(3) / 255 + rng.normal(0, 0.06 / 255, (3, 3))  # other inks, other lamps
    pixels = pixels.astype(np.float32) @ mix.astype(np.float32)
    grain = rng.standard_normal((size // 2, size // 2, 3), dtype=np.float32)  # repeated: quicker
    return pixels + np.tile(grain, (2, 2, 1)) * np.float32(rng.uniform(0, 0.02)), where > 0


def coverage(masks: Tensor, patch: int) -> Tensor:
    """Share of each patch that the defect covers: (B, H, W) bool to (B, N) in [0, 1]."""
    return F.avg_pool2d(masks.float()[:, None], patch).flatten(1)


def labels_of(share: Tensor, least: float) -> Tensor:
    """1 (damaged) where a defect covers at least `least`, 0 where there is none, else IGNORE.

    >>> labels_of(torch.tensor([0.0, 0.01, 0.5]), 0.1)
    tensor([ 0, -1,  1])
    """
    return torch.where(share >= least, 1, torch.where(share == 0, 0, IGNORE))


def choose_windows(
    windows: Tensor, share: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`count` windows of each picture, about half of them on its defect where it has one.

    `windows` (W, K) patch numbers and `share` (B, N); returns patch numbers (B, count, K) and the
    shares (B, count) that the defect covers of them.
    """
    shares = share[:, windows].mean(dim=-1)
    damaged = shares > 0
    weight = torch.where(damaged, 1 / damaged.sum(1, keepdim=True).clamp(min=1), 0.0)
    weight = weight + torch.where(damaged, 0.0, 1 / (~damaged).sum(1, keepdim=True).clamp(min=1))
    chosen = torch.multinomial(weight, count, replacement=False, generator=generator)
    return windows[chosen], shares.gather(1, chosen)

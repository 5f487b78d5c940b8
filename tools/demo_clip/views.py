"""Render the demo CLIP's training images, and cut them into labelled views.

A view is an image or one of its windows of 2 x 2 or 3 x 3 patches. Its label, from the exact mask,
says if it shows the defect.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.render.catalogue import CATEGORIES, render, seeded_generator

IGNORE = -1  # label of a view that shows too little of a defect to count as good or damaged


@dataclass(frozen=True)
class Pool:
    """Rendered images of the training categories."""

    names: tuple[str, ...]
    images: np.ndarray  # (P, S, S, 3) uint8
    masks: np.ndarray  # (P, S, S) bool
    category: np.ndarray  # (P,) int: index into names


def make_pool(per_category: int, variety: int, seed: int, workers: int) -> Pool:
    """Render images of every category except the unseen ones, half of them good.

    There are `per_category` of each, and `variety` times as many of a category whose images all
    show different objects.
    """
    names = tuple(name for name, product in CATEGORIES.items() if product.role != "unseen")
    counts = [per_category * (variety if CATEGORIES[name].varied else 1) for name in names]
    jobs = [
        (name, k, seed) for name, count in zip(names, counts, strict=True) for k in range(count)
    ]
    with ThreadPoolExecutor(workers) as executor:  # NumPy and OpenCV release Python's lock
        rendered = list(executor.map(render_job, jobs))
    images, masks = zip(*rendered, strict=True)
    category = np.repeat(np.arange(len(names)), counts)
    return Pool(names, np.stack(images), np.stack(masks), category)


def render_job(job: tuple[str, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Render one image of the pool and its mask."""
    name, index, seed = job
    rng = seeded_generator("pool", seed, name, index)
    defects = CATEGORIES[name].defects
    defect = defects[index // 2 % len(defects)] if index % 2 else None
    return render(name, defect, rng, spread=float(rng.choice((1.0, 2.0, 3.0))))


def augment(
    image: np.ndarray, mask: np.ndarray, size: int, smallest: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Crop a square at `size`, flip, rotate and recolour it; do the same with the mask.

    Takes (S, S, 3) uint8 and (S, S) bool; returns (size, size, 3) float32, about [0, 1], and
    (size, size) bool. The crop's side is `smallest` to 1 of the image's, and contains the defect if
    there is one.
    """
    side = int(len(image) * rng.uniform(smallest, 1.0))
    top, left = rng.integers(0, len(image) - side + 1, 2)
    if mask.any():
        rows, columns = np.nonzero(mask)
        pixel, offset = rng.integers(len(rows)), side * rng.uniform(0.2, 0.8, 2)
        corner = np.array([rows[pixel], columns[pixel]]) - offset
        top, left = np.clip(corner, 0, len(image) - side).astype(int)
    crop = slice(top, top + side), slice(left, left + side)
    method = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC  # area enlarges in blocks
    pixels = cv2.resize(image[crop], (size, size), interpolation=method)
    damage = cv2.resize(mask[crop].astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST)
    turns = rng.integers(4)
    pixels, damage = np.rot90(pixels, turns), np.rot90(damage, turns)
    if rng.random() < 0.5:
        pixels, damage = pixels[:, ::-1], damage[:, ::-1]
    colours = np.eye(3) / 255 + rng.normal(0, 0.06 / 255, (3, 3))  # vary colours and light
    pixels = pixels.astype(np.float32) @ colours.astype(np.float32)
    grain = rng.standard_normal((size // 2, size // 2, 3), dtype=np.float32)  # tiled for speed
    return pixels + np.tile(grain, (2, 2, 1)) * np.float32(rng.uniform(0, 0.02)), damage > 0


def coverage(masks: Tensor, patch: int) -> Tensor:
    """Return the share of each patch under the mask: (B, H, W) bool to (B, N) in [0, 1]."""
    return F.avg_pool2d(masks.float()[:, None], patch).flatten(1)


def labels_of(covered: Tensor, threshold: float) -> Tensor:
    """Label views by their covered share: 1 (damaged) from `threshold` up, 0 for none, else IGNORE.

    >>> labels_of(torch.tensor([0.0, 0.01, 0.5]), 0.1)
    tensor([ 0, -1,  1])
    """
    return torch.where(covered >= threshold, 1, torch.where(covered == 0, 0, IGNORE))


def choose_windows(
    windows: Tensor, covered: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw `count` windows of each image, about half of them on its defect if it has one.

    `windows` (W, K) are patch indices and `covered` (B, N) the shares of patches under the mask;
    returns the patch indices (B, count, K) of the windows and their shares (B, count).
    """
    shares = covered[:, windows].mean(dim=-1)
    damaged = shares > 0
    weight = torch.where(damaged, 1 / damaged.sum(1, keepdim=True).clamp(min=1), 0.0)
    weight = weight + torch.where(damaged, 0.0, 1 / (~damaged).sum(1, keepdim=True).clamp(min=1))
    chosen = torch.multinomial(weight, count, replacement=False, generator=generator)
    return windows[chosen], shares.gather(1, chosen)

"""Windows on a grid of patches, and the harmonic aggregation of their scores (section 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def window_indices(grid: tuple[int, int], size: int) -> Tensor:
    """List the patches of every `size` x `size` window at stride 1: (W, size * size), row-major.

    W = (height - size + 1) * (width - size + 1). Raises ValueError for a size outside 1..min(grid).

    >>> window_indices((2, 3), 2)
    tensor([[0, 1, 3, 4],
            [1, 2, 4, 5]])
    """
    height, width = grid
    if not 1 <= size <= min(grid):
        raise ValueError(f"window size {size} does not fit a grid of {height} x {width} patches")
    patches = torch.arange(height * width).reshape(height, width)
    windows = patches.unfold(0, size, 1).unfold(1, size, 1)
    return windows.reshape(-1, size * size)


def harmonic_aggregation(scores: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Give each patch the harmonic mean of the scores of all windows that cover it (equation 3).

    `scores` (..., W) in the order of `window_indices`, >= 0; returns (..., height, width).
    A patch in any window of score 0 gets 0.

    Example: in a 3 x 3 grid, a corner lies in one of the four 2 x 2 windows, the centre in all.

    >>> harmonic_aggregation(torch.tensor([1.0, 0.5, 0.25, 0.5]), (3, 3), 2)
    tensor([[1.0000, 0.6667, 0.5000],
            [0.4000, 0.4444, 0.5000],
            [0.2500, 0.3333, 0.5000]])
    """
    height, width = grid
    rows, columns = height - size + 1, width - size + 1
    inverse = 1 / scores.reshape(-1, 1, rows, columns)
    covering = sum_over_covering(torch.ones_like(inverse[:1]), size)
    return (covering / sum_over_covering(inverse, size)).reshape(*scores.shape[:-1], *grid)


def sum_over_covering(windows: Tensor, size: int) -> Tensor:
    """Sum the values of the windows that cover each patch: (B, 1, rows, columns) to the grid."""
    # Pool, instead of multiplying by a 0/1 mask: 0 times infinity is not a number.
    padded = F.pad(windows, [size - 1] * 4)
    return F.avg_pool2d(padded, size, stride=1, divisor_override=1)


def harmonic_mean(scores: Tensor) -> Tensor:
    """Return the harmonic mean over the first dimension, of scores >= 0; 0 if any of them is 0."""
    return len(scores) / (1 / scores).sum(dim=0)

"""CUDA without a GPU: fake tensors have shapes, types and devices, and compute nothing.

torch checks the devices of every operation, so a tensor left on the CPU fails as on a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from models.clip import text

CUDA = torch.device("cuda", 0)
FIRST_TESTED_TORCH = (2, 14)


def computed(function: Callable) -> Callable:
    """Return `function` with real values, for what depends on values and runs on the CPU."""

    def call(*args):
        with unset_fake_temporarily():
            return function(*args)

    return call


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make every new tensor fake, and allow the device "cuda"; skip where torch is too old."""
    mode, share_prefixes = FakeTensorMode(), computed(text.share_prefixes)
    with (
        mode,
        # A module that moves to another device swaps its parameters, which fake mode refers to.
        mock.patch("torch.utils.weakref.getweakrefs", lambda tensor: []),
        mock.patch.object(
            text, "share_prefixes", lambda tokens: map(mode.from_tensor, share_prefixes(tokens))
        ),
    ):
        try:
            torch.ones(2, 2, device="cuda")[:, :1]
        except RuntimeError:
            version = tuple(map(int, torch.__version__.split(".")[:2]))
            if version >= FIRST_TESTED_TORCH:
                raise
            pytest.skip("this version of torch does not fake CUDA without a driver")
        yield

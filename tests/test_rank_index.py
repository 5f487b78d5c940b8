import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import PROJECT
from utils.evaluation.metrics import PixelEvaluator
from utils.evaluation.rank_index import CompiledCounter, SortingCounter, compiled

EDGES = [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, np.nextafter(1.0, 2.0)]


def any_floats(rng: np.random.Generator, count: int) -> np.ndarray:
    """Float32 of every magnitude and sign, without NaN, and the numbers at the edges."""
    drawn = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    return np.concatenate([drawn[~np.isnan(drawn)], np.array(EDGES, np.float32)])


@pytest.mark.parametrize("thresholds", [1, 63, 3000])
@pytest.mark.parametrize("kind", ["any", "unit", "steps", "outlier"])
def test_both_counters_return_the_same_integers(kind, thresholds):
    rng = np.random.default_rng(thresholds)
    scores = {
        "any": any_floats(rng, 20_000),
        "unit": rng.random(20_000, np.float32),
        "steps": rng.integers(-9, 9, 20_000).astype(np.float32) / 7,
        "outlier": np.append(rng.random(20_000, np.float32), np.float32(3e38)),
    }[kind]
    found = np.append(rng.permutation(scores)[:thresholds], scores[-1])
    fast, slow = CompiledCounter(found), SortingCounter(found)
    np.testing.assert_array_equal(fast.ranks(found), slow.ranks(found))
    blocks = [[scores[:7], scores[7:]], [scores[::-1].copy()]]
    np.testing.assert_array_equal(fast.count(blocks), slow.count(blocks))


def test_neighbouring_floats_at_the_ends_of_words_and_pages_are_told_apart():
    bits = (np.arange(-130, 130) + 0x3F800000).astype(np.uint32)  # a page begins at 1.0
    scores = np.concatenate([bits.view(np.float32), -bits.view(np.float32)])
    for found in (scores, scores[::2], scores[64:65]):
        fast, slow = CompiledCounter(found), SortingCounter(found)
        np.testing.assert_array_equal(fast.count([[scores]]), slow.count([[scores]]))


def test_scattered_and_double_scores_are_left_to_numpy():
    rng = np.random.default_rng(0)
    scattered = any_floats(rng, 100_000)
    assert CompiledCounter.fits(rng.random(100_000, np.float32))
    assert not CompiledCounter.fits(scattered)  # would take hundreds of megabytes
    assert not CompiledCounter.fits(rng.random(9))
    masks = np.ones((1, 1, len(scattered) + 9), bool)
    masks[..., -9:] = False
    maps = np.append(scattered, scattered[:9])[None, None]
    assert PixelEvaluator(masks)(maps) == PixelEvaluator(masks, compiled=False)(maps)


def test_no_folder_to_keep_machine_code_in_is_no_obstacle(tmp_path):
    # numba tries __pycache__, then the home; both are files here, so that even root cannot write.
    (tmp_path / "part.py").write_text(
        "from utils.evaluation.rank_index import compiled\n@compiled\ndef twice(x):\n    return 2 * x\n"
        "print(twice(21))\n"
    )
    (tmp_path / "__pycache__").touch()
    (tmp_path / "home").touch()
    environment = os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(PROJECT)}
    environment.pop("NUMBA_CACHE_DIR", None)
    environment["XDG_CACHE_HOME"] = str(tmp_path / "home" / "cache")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "part.py")], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "42\n", done.stderr


def test_compiled_code_is_kept_for_the_next_process():
    assert compiled(any_floats).stats.cache_path

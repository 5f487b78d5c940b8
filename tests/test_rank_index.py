import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import PROJECT
from utils.evaluation.counters import SortingCounter, score_counter
from utils.evaluation.metrics import PixelEvaluator
from utils.evaluation.rank_index import (
    CompiledCounter,
    compiled,
    popcount,
    sortable_key,
)

EDGES = [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, np.nextafter(1.0, 2.0)]


def any_floats(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return float32 of every magnitude and sign, with EDGES and without NaN."""
    drawn = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    return np.concatenate([drawn[~np.isnan(drawn)], np.array(EDGES, np.float32)])


@pytest.mark.parametrize("count", [1, 63, 3000])
@pytest.mark.parametrize("kind", ["any", "unit", "steps", "outlier"])
def test_both_counters_return_the_same_counts(kind, count):
    rng = np.random.default_rng(count)
    scores = {
        "any": any_floats(rng, 20_000),
        "unit": rng.random(20_000, np.float32),
        "steps": rng.integers(-9, 9, 20_000).astype(np.float32) / 7,
        "outlier": np.append(rng.random(20_000, np.float32), np.float32(3e38)),
    }[kind]
    thresholds = np.append(rng.permutation(scores)[:count], scores[-1])
    fast, slow = CompiledCounter(thresholds), SortingCounter(thresholds)
    np.testing.assert_array_equal(fast.ranks(thresholds), slow.ranks(thresholds))
    arrays = [scores[:7], scores[7:], scores[::-1].copy()]
    np.testing.assert_array_equal(fast.count(arrays), slow.count(arrays))


def test_adjacent_floats_are_distinguished_across_words_and_pages():
    bits = (np.arange(-130, 130) + 0x3F800000).astype(np.uint32)  # a page starts at 1.0
    scores = np.concatenate([bits.view(np.float32), -bits.view(np.float32)])
    for thresholds in (scores, scores[::2], scores[64:65]):
        fast, slow = CompiledCounter(thresholds), SortingCounter(thresholds)
        np.testing.assert_array_equal(fast.count([scores]), slow.count([scores]))


def test_the_sortable_key_orders_floats():
    scores = np.sort(any_floats(np.random.default_rng(0), 1000))
    keys = [sortable_key(bits) for bits in scores.view(np.uint32)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(np.unique(scores))


def test_popcount_counts_set_bits():
    words = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    words = np.append(words, np.array([0, 1, 2**63, 2**64 - 1], np.uint64))
    assert [popcount(word) for word in words] == [int(word).bit_count() for word in words]


def test_scattered_and_float64_scores_are_counted_by_numpy():
    rng = np.random.default_rng(0)
    scattered = any_floats(rng, 100_000)
    unit = rng.random(600_000, np.float32)
    for scores in (unit, unit[:500], unit[:50_000] + 1):
        assert isinstance(score_counter(scores, True), CompiledCounter)
    # The first would take hundreds of megabytes; the second does not fit into the L2 cache.
    for scores in (scattered, unit[:50_000], rng.random(9)):
        assert isinstance(score_counter(scores, True), SortingCounter)
    masks = np.ones((1, 1, len(scattered) + 9), bool)
    masks[..., -9:] = False
    maps = np.append(scattered, scattered[:9])[None, None]
    expected = PixelEvaluator(masks, compiled=False).count_scores(maps)
    for counts, same in zip(PixelEvaluator(masks, True).count_scores(maps), expected, strict=True):
        np.testing.assert_array_equal(counts, same)


def test_compiled_code_counts_many_pixels_only(monkeypatch):
    monkeypatch.setattr("utils.evaluation.metrics.COMPILED_PIXELS", 100)
    assert not PixelEvaluator(np.zeros((1, 9, 11), bool)).compiled
    assert PixelEvaluator(np.zeros((1, 10, 10), bool)).compiled


def test_code_compiles_where_no_cache_folder_can_be_written(tmp_path):
    # numba tries __pycache__, then the home folder. Both are files, so even root cannot write them.
    (tmp_path / "script.py").write_text(
        "from utils.evaluation.rank_index import compiled\n"
        "@compiled\ndef twice(x):\n    return 2 * x\nprint(twice(21))\n"
    )
    (tmp_path / "__pycache__").touch()
    (tmp_path / "home").touch()
    environment = os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(PROJECT)}
    environment.pop("NUMBA_CACHE_DIR", None)
    environment["XDG_CACHE_HOME"] = str(tmp_path / "home" / "cache")
    result = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "42\n", result.stderr


def test_compiled_code_is_cached_for_the_next_process():
    assert compiled(any_floats).stats.cache_path

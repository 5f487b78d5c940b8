import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import PROJECT
from utils.evaluation.counters import SortingCounter, score_counter
from utils.evaluation.metrics import PixelEvaluator
from utils.evaluation.rank_index import CompiledCounter, compiled, popcount

EDGES = [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, np.nextafter(1.0, 2.0)]


def any_floats(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return float32 of every magnitude and sign, with EDGES and without NaN."""
    drawn = rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    return np.concatenate([drawn[~np.isnan(drawn)], np.array(EDGES, np.float32)])


@pytest.mark.parametrize("count", [1, 63, 3000])
@pytest.mark.parametrize("kind", ["unit", "steps", "tiny", "wide", "constant"])
def test_both_counters_return_the_same_counts(kind, count):
    rng = np.random.default_rng(count)
    scores = {
        "unit": rng.random(20_000, np.float32),
        "steps": rng.integers(-9, 9, 20_000).astype(np.float32) / 7,
        "tiny": rng.random(20_000, np.float32) * np.float32(1e-30),
        "wide": rng.uniform(-1e38, 1e38, 20_000).astype(np.float32),
        "constant": np.full(20_000, 0.5, np.float32),
    }[kind]
    thresholds = rng.permutation(scores)[:count]
    fast, slow = score_counter(thresholds, True), score_counter(thresholds, False)
    assert isinstance(fast, CompiledCounter) and isinstance(slow, SortingCounter)
    np.testing.assert_array_equal(fast.ranks(thresholds), slow.ranks(thresholds))
    edges = np.array(EDGES, np.float32)
    arrays = [scores[:7], scores[7:], scores[::-1].copy(), edges]
    np.testing.assert_array_equal(fast.count(arrays), slow.count(arrays))


def test_adjacent_floats_are_distinguished():
    scores = (np.arange(-130, 130) + 0x3F800000).astype(np.uint32).view(np.float32)
    for thresholds in (scores, scores[::2], scores[64:65]):
        fast, slow = score_counter(thresholds, True), score_counter(thresholds, False)
        assert isinstance(fast, CompiledCounter)
        np.testing.assert_array_equal(fast.count([scores]), slow.count([scores]))


def test_popcount_counts_set_bits():
    words = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    words = np.append(words, np.array([0, 1, 2**63, 2**64 - 1], np.uint64))
    assert [popcount(word) for word in words] == [int(word).bit_count() for word in words]


@pytest.mark.parametrize(
    "scores",
    [
        any_floats(np.random.default_rng(0), 1000),
        np.append(np.random.default_rng(0).random(1000, np.float32), np.float32(3e38)),
        np.array([0, np.inf], np.float32),
        np.array([0, 1e-45], np.float32),
        np.array([-3e38, 3e38], np.float32),
        np.random.default_rng(0).random(9),
    ],
    ids=["any floats", "outlier", "infinity", "smallest", "range", "float64"],
)
def test_scattered_and_float64_scores_are_counted_by_numpy(scores):
    assert isinstance(score_counter(scores, True), SortingCounter)
    masks = np.ones((1, 1, len(scores) + 9), bool)
    masks[..., -9:] = False
    maps = np.append(scores, np.resize(scores, 9))[None, None]
    expected = PixelEvaluator(masks, compiled=False).count_scores(maps)
    actual = PixelEvaluator(masks, compiled=True).count_scores(maps)
    for counts, same in zip(actual, expected, strict=True):
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

import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from tests.conftest import PROJECT
from utils.errors import InputError
from utils.evaluation.metrics import (
    FPR_LIMIT,
    IMAGE_METRICS,
    METRICS,
    PIXEL_METRICS,
    PixelEvaluator,
    image_metrics,
    pixel_metrics,
)


@pytest.fixture(autouse=True, params=[True, False], ids=["compiled", "numpy"])
def _counter(request, monkeypatch):
    """Every test runs with both counters."""
    monkeypatch.setattr(PixelEvaluator.__init__, "__defaults__", (request.param,))


def f1_max(labels, scores) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))


def slow_aupro(maps, masks) -> float:
    """AUPRO the obvious way: every threshold, every region, trapezoids, a cut at the limit."""
    regions = []
    for index, mask in enumerate(masks):
        count, labels = cv2.connectedComponents(np.asarray(mask > 0, np.uint8), connectivity=8)
        regions += [(index, labels == number) for number in range(1, count)]
    normal = np.concatenate([m[k == 0].ravel() for m, k in zip(maps, masks, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        overlap = np.mean([(maps[i][region] >= threshold).mean() for i, region in regions])
        points.append(((normal >= threshold).mean(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 > FPR_LIMIT:
            if x0 < FPR_LIMIT:
                y1 = y0 + (y1 - y0) * (FPR_LIMIT - x0) / (x1 - x0)
                area += (FPR_LIMIT - x0) * (y0 + y1) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / FPR_LIMIT


def random_case(seed: int):
    """Small maps with ties, and masks with some regions."""
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 4), rng.integers(2, 9), rng.integers(2, 9))
    masks = rng.random(shape) < rng.uniform(0.05, 0.6)
    masks[0, 0, 0], masks[0, -1, -1] = True, False
    levels = rng.integers(2, 30)
    maps = (rng.integers(0, levels, shape) + masks * rng.integers(0, 4)).astype(np.float32) / 7
    return maps, masks


def test_aupro_equals_the_slow_obvious_way_on_300_cases_with_ties():
    for seed in range(300):
        maps, masks = random_case(seed)
        found = pixel_metrics(maps, masks)["pixel_aupro"]
        assert found == pytest.approx(slow_aupro(maps, masks), abs=1e-9), seed


def test_the_other_pixel_metrics_equal_scikit_learns():
    for seed in range(100):
        maps, masks = random_case(seed)
        found = pixel_metrics(maps, masks)
        labels, scores = masks.ravel(), maps.ravel()
        wanted = {
            "pixel_auroc": roc_auc_score(labels, scores),
            "pixel_aupr": average_precision_score(labels, scores),
            "pixel_f1_max": f1_max(labels, scores),
        }
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, abs=1e-12), (name, seed)


def test_image_metrics_equal_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(100):
        labels = np.array([0, 1, *rng.integers(0, 2, 20)])
        scores = rng.integers(0, 9, 22) / 3
        found = image_metrics(scores, labels)
        assert tuple(found) == IMAGE_METRICS
        assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert found["image_aupr"] == pytest.approx(
            average_precision_score(labels, scores), abs=1e-12
        )
        assert found["image_f1_max"] == pytest.approx(f1_max(labels, scores), abs=1e-12)


def test_image_metrics_by_hand():
    # Good 0.1 and 0.4; anomalous 0.4 and 0.8. AUROC: of four pairs three are won, one is tied:
    # 3.5 / 4. AUPR: recall 1/2 at precision 1, then 1/2 more at 2/3: 1/2 + 1/3. F1 at 0.4: 0.8.
    found = image_metrics(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    assert found["image_auroc"] == pytest.approx(0.875)
    assert found["image_aupr"] == pytest.approx(5 / 6)
    assert found["image_f1_max"] == pytest.approx(0.8)


def test_aupro_by_hand():
    # Ten normal pixels 0.0 to 0.9, one region of two pixels, 0.75 and 0.85. The first is found
    # once 0.9 is called (FPR 0.1), the second once 0.8 is too (0.2): the overlap is 0 up to 0.1,
    # 1/2 up to 0.2 and 1 up to 0.3, an area of 0.15 of 0.3.
    maps = np.array([[[*(n / 10 for n in range(10)), 0.75, 0.85]]])
    masks = np.array([[[*([0] * 10), 1, 1]]])
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx(0.5)


def test_aupro_is_interpolated_at_the_limit_by_hand():
    # Four of ten normal pixels tie with the whole region at the top: the overlap rises from 0 to
    # 1 while the FPR goes to 0.4. At 0.3 it is 3/4; the triangle is 0.3 x 3/4 / 2, of 0.3: 3/8.
    maps = np.array([[[*([1.0] * 4), *([0.0] * 6), 1.0, 1.0]]])
    masks = np.array([[[*([0] * 10), 1, 1]]])
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx(0.375)


def test_regions_touching_at_a_corner_are_one():
    # A diagonal of two pixels is one region; with a third apart there are two regions.
    mask = np.zeros((1, 5, 5), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 4, 4] = True
    assert PixelEvaluator(mask).regions == 2


def test_small_regions_count_as_much_as_large_ones():
    maps, masks = np.zeros((2, 10, 10)), np.zeros((2, 10, 10), bool)
    masks[0, :5], masks[1, 0, 0] = True, True
    maps[1, 0, 0] = 1  # only the small region is found
    found = pixel_metrics(maps, masks)
    # Half of the overlap at once; the rest on the line to FPR 1, 0.15 of it at 0.3.
    assert found["pixel_aupro"] == pytest.approx((0.5 + 0.65) / 2)


def test_a_perfect_map_has_every_metric_at_one():
    _, masks = random_case(1)
    assert set(pixel_metrics(masks.astype(np.float32), masks).values()) == {1.0}


def test_a_monotone_change_of_scores_changes_no_metric():
    for seed in range(20):
        maps, masks = random_case(seed)
        wanted = pixel_metrics(maps, masks)
        for change in (np.exp, lambda x: -1 / (x + 1), lambda x: x * 1e30, lambda x: x**3 - 5):
            assert pixel_metrics(change(maps.astype(np.float64)), masks) == wanted


def test_the_order_of_images_changes_no_metric():
    maps, masks = random_case(4)
    wanted = pixel_metrics(maps, masks)
    found = pixel_metrics(maps[::-1], masks[::-1])
    assert found == pytest.approx(wanted, abs=1e-15)


def test_blocks_of_any_size_count_the_same(monkeypatch):
    rng = np.random.default_rng(2)
    masks = rng.random((9, 20, 20)) < 0.05
    maps = rng.integers(0, 50, masks.shape).astype(np.float32)
    wanted = PixelEvaluator(masks).count_scores(maps)
    for block in (1, 401, 900, 4000):
        monkeypatch.setattr("utils.evaluation.metrics.BLOCK", block)
        evaluator = PixelEvaluator(masks)
        assert [i for part in evaluator.blocks for i in part] == list(range(9))
        for found, same in zip(evaluator.count_scores(maps), wanted, strict=True):
            np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize(
    "values",
    [
        np.array([-np.inf, -1.5, 0.25, np.inf], np.float32),
        np.array([-0.0, 0.0, 1.0, -1.0], np.float32),
        np.array([1e-40, -1e-40, 0.0, 1e38], np.float32),
        np.array([0.1, 0.1 + 1e-12, 0.1 - 1e-12, 0.3], np.float64),
        np.array([1, 2, 3, 250], np.uint8),
        np.array([-3, 0, 7, 2**40], np.int64),
        np.array([0.5, 0.25, 0.75, 1], np.float16),
        np.array([1e300, 1, 2, 3], np.float64),
        np.array([True, False]),
    ],
    ids=lambda values: f"{values.dtype} {values}",
)
def test_scores_of_every_kind_are_ranked_exactly(values):
    rng = np.random.default_rng(0)
    maps = values[rng.integers(0, len(values), (3, 20, 20))]
    masks = rng.random(maps.shape) < 0.2
    _, ranks = np.unique(maps.astype(np.float64), return_inverse=True)
    found = pixel_metrics(maps, masks)
    assert found == pixel_metrics(ranks.reshape(maps.shape).astype(np.float32), masks)


def test_minus_zero_ties_with_zero():
    maps = np.array([[[-0.0, 0.0, 0.0, -0.0]]], np.float32)
    masks = np.array([[[1, 0, 1, 0]]])
    assert pixel_metrics(maps, masks)["pixel_auroc"] == 0.5


def test_constant_maps_know_nothing():
    maps, masks = np.full((2, 4, 4), 0.7, np.float32), np.zeros((2, 4, 4), bool)
    masks[0, :2] = True
    found = pixel_metrics(maps, masks)
    # A quarter is anomalous: AUROC 1/2, precision 1/4, F1 2/5; the overlap is the diagonal.
    wanted = {"pixel_auroc": 0.5, "pixel_aupr": 0.25, "pixel_f1_max": 0.4, "pixel_aupro": 0.15}
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("value", [0, 1])
def test_one_kind_of_pixels_or_images_alone_is_undefined(value):
    found = pixel_metrics(np.random.rand(2, 3, 3), np.full((2, 3, 3), value))
    assert tuple(found) == PIXEL_METRICS
    assert np.isnan(list(found.values())).all()
    assert np.isnan(list(image_metrics(np.array([0.2, 0.4]), np.full(2, value)).values())).all()


def test_no_images_at_all_are_undefined():
    found = image_metrics(np.zeros(0), np.zeros(0)) | pixel_metrics(np.zeros((0, 2, 2)), [])
    assert tuple(found) == METRICS
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize("mask_type", [np.uint8, np.int64, np.float32])
def test_masks_of_255_and_of_class_ids_are_masks(mask_type):
    maps, masks = random_case(6)
    wanted = pixel_metrics(maps, masks)
    ids = masks.astype(mask_type) * np.random.default_rng(0).integers(1, 200, masks.shape)
    assert pixel_metrics(maps, ids.astype(mask_type)) == wanted


@pytest.mark.parametrize("where", ["normal", "anomalous"])
def test_nan_scores_are_an_error_that_names_the_image(where):
    maps, masks = random_case(6)
    maps, masks = np.stack([maps[0], maps[0]]), np.stack([masks[0], masks[0]])
    maps[1][masks[1] == (where == "anomalous")] = np.nan
    with pytest.raises(InputError, match="map 1 has NaN"):
        pixel_metrics(maps, masks)
    with pytest.raises(InputError, match="NaN"):
        image_metrics(np.array([0.1, np.nan]), np.array([0, 1]))


def test_shapes_that_do_not_fit_are_refused():
    maps = np.zeros((2, 3, 4))
    for masks in (np.zeros((1, 3, 4)), np.zeros((2, 4, 3)), np.zeros((2, 3, 5))):
        with pytest.raises(InputError, match="give"):
            pixel_metrics(maps, masks)
    with pytest.raises(InputError, match=r"two of \(N,\)"):
        image_metrics(np.zeros(3), np.zeros(2))


def test_maps_that_are_not_contiguous_are_read_right():
    maps, masks = random_case(8)
    wanted = pixel_metrics(maps, masks)
    turned = np.asfortranarray(maps), np.asfortranarray(masks)
    assert pixel_metrics(*turned) == wanted
    assert pixel_metrics(np.repeat(maps, 2, axis=2)[:, :, ::2], masks) == wanted


class Lazy:
    """A sequence whose maps are made when they are read; counts how often."""

    def __init__(self, maps):
        self.maps, self.reads = maps, 0

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        self.reads += 1
        return self.maps[index].copy()


def test_a_lazy_sequence_of_other_shapes_is_read_twice():
    rng = np.random.default_rng(3)
    shapes = [(4, 5), (7, 3), (6, 6)]
    masks = [rng.random(shape) < 0.3 for shape in shapes]
    maps = [rng.integers(0, 9, shape).astype(np.float32) for shape in shapes]
    lazy = Lazy(maps)
    found = pixel_metrics(lazy, masks)
    assert lazy.reads == 2 * len(shapes)
    labels, scores = (np.concatenate([one.ravel() for one in many]) for many in (masks, maps))
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["pixel_aupro"] == pytest.approx(slow_aupro(maps, masks), abs=1e-9)


def test_the_benchmark_runs_and_prints_its_table(tmp_path):
    script = PROJECT / "benchmarks" / "metrics.py"
    done = subprocess.run(
        *([sys.executable, str(script), "--quick"],), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "16 images of 240x240" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("scikit-learn  ")]
    assert float(line.split()[-1]) < 1e-12  # the largest difference from ours


def test_one_evaluator_serves_many_runs():
    maps, masks = random_case(9)
    evaluator = PixelEvaluator(masks)
    first = evaluator(maps)
    assert evaluator(-maps) != first
    assert evaluator(maps) == first

import itertools
from fractions import Fraction

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from utils.errors import InputError
from utils.evaluation.metrics import (
    EXTRA_METRICS,
    FPR_LIMIT,
    IMAGE_METRICS,
    METRICS,
    PIXEL_METRICS,
    PixelEvaluator,
    extra_metrics,
    f1_max_threshold,
    image_metrics,
    pixel_metrics,
    region_weights,
)


@pytest.fixture(autouse=True, params=[True, False], ids=["compiled", "numpy"])
def _counter(request, monkeypatch):
    """Run every test with both counters."""
    monkeypatch.setattr(PixelEvaluator.__init__, "__defaults__", (request.param,))


def f1_max(labels, scores) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))


def slow_aupro(maps, masks, limit=FPR_LIMIT) -> float:
    """Compute AUPRO directly: every threshold and region, trapezoids up to the limit."""
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
        if x1 > limit:
            if x0 < limit:
                y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
                area += (limit - x0) * (y0 + y1) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def slow_iou_max(maps, masks) -> float:
    """Return the highest intersection over union of the masks over all thresholds."""
    ious = [
        ((maps >= threshold) & masks).sum() / ((maps >= threshold) | masks).sum()
        for threshold in np.unique(maps)
    ]
    return float(max(ious))


def random_case(seed: int):
    """Return small maps with ties, and masks with a few regions."""
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 4), rng.integers(2, 9), rng.integers(2, 9))
    masks = rng.random(shape) < rng.uniform(0.05, 0.6)
    masks[0, 0, 0], masks[0, -1, -1] = True, False
    levels = rng.integers(2, 30)
    maps = (rng.integers(0, levels, shape) + masks * rng.integers(0, 4)).astype(np.float32) / 7
    return maps, masks


def test_aupro_equals_a_direct_implementation_on_300_cases_with_ties():
    for seed in range(300):
        maps, masks = random_case(seed)
        value = pixel_metrics(maps, masks)["pixel_aupro"]
        assert value == pytest.approx(slow_aupro(maps, masks), abs=1e-9), seed


def test_extra_metrics_equal_their_definitions():
    for seed in range(100):
        maps, masks = random_case(seed)
        evaluator = PixelEvaluator(masks)
        counts = evaluator.count_scores(maps)
        images = dict(zip(IMAGE_METRICS, np.random.default_rng(seed).random(3), strict=True))
        seven = images | evaluator.metrics(counts)
        expected = {
            "pixel_aupro_005": slow_aupro(maps, masks, 0.05),
            "pixel_iou_max": slow_iou_max(maps, masks),
            "mean_of_seven": sum(seven.values()) / 7,
        }
        assert extra_metrics(seven, counts) == pytest.approx(expected, abs=1e-9), seed
        assert tuple(expected) == EXTRA_METRICS


def test_extra_metrics_are_undefined_where_those_that_they_need_are():
    evaluator = PixelEvaluator(np.zeros((1, 3, 3), bool))
    counts = evaluator.count_scores(np.random.rand(1, 3, 3))
    values = extra_metrics(dict.fromkeys(IMAGE_METRICS, 0.5) | evaluator.metrics(counts), counts)
    assert np.isnan(list(values.values())).all()


def test_other_pixel_metrics_equal_scikit_learn():
    for seed in range(100):
        maps, masks = random_case(seed)
        values = pixel_metrics(maps, masks)
        labels, scores = masks.ravel(), maps.ravel()
        expected = {
            "pixel_auroc": roc_auc_score(labels, scores),
            "pixel_aupr": average_precision_score(labels, scores),
            "pixel_f1_max": f1_max(labels, scores),
        }
        for name, value in expected.items():
            assert values[name] == pytest.approx(value, abs=1e-12), (name, seed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_image_metrics_equal_scikit_learn_and_the_pixel_metrics_of_a_single_map(dtype):
    rng = np.random.default_rng(0)
    for levels in [9] * 50 + [10**9] * 50:  # with and without ties
        labels = np.array([0, 1, *rng.integers(0, 2, 20)])
        scores = (rng.integers(0, levels, 22) / 3).astype(dtype)
        values = image_metrics(scores, labels)
        assert tuple(values) == IMAGE_METRICS
        assert values["image_auroc"] == roc_auc_score(labels, scores)
        assert values["image_aupr"] == average_precision_score(labels, scores)
        pixels = pixel_metrics(scores[None, None], labels[None, None])
        assert list(values.values()) == pytest.approx(list(pixels.values())[:3], abs=1e-12)


def test_image_metrics_of_a_worked_example():
    # Good 0.1 and 0.4; anomalous 0.4 and 0.8. AUROC: of four pairs, three are in order and one
    # is tied: 3.5 / 4. AUPR: recall 1/2 at precision 1, then 1/2 more at 2/3: 1/2 + 1/3. The
    # highest F1 is 0.8, at threshold 0.4.
    values = image_metrics(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    assert values["image_auroc"] == pytest.approx(0.875)
    assert values["image_aupr"] == pytest.approx(5 / 6)
    assert values["image_f1_max"] == pytest.approx(0.8)


def test_aupro_of_a_worked_example():
    # Ten normal pixels 0.0 to 0.9, and one region of two pixels, 0.75 and 0.85. At threshold 0.85
    # one normal pixel is a false positive (FPR 0.1), at 0.75 two are (0.2): the overlap is 0 up to
    # FPR 0.1, 1/2 up to 0.2 and 1 up to 0.3, an area of 0.15 out of 0.3.
    maps = np.array([[[*(n / 10 for n in range(10)), 0.75, 0.85]]])
    masks = np.array([[[*([0] * 10), 1, 1]]])
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx(0.5)


def test_aupro_is_interpolated_at_the_fpr_limit():
    # Four of ten normal pixels tie with the whole region at the highest score: the overlap rises
    # from 0 to 1 while the FPR goes to 0.4. At 0.3 it is 3/4; the triangle is 0.3 x 3/4 / 2, and
    # divided by 0.3 it is 3/8.
    maps = np.array([[[*([1.0] * 4), *([0.0] * 6), 1.0, 1.0]]])
    masks = np.array([[[*([0] * 10), 1, 1]]])
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx(0.375)


def test_pixels_that_touch_at_a_corner_are_the_same_region():
    mask = np.zeros((5, 5), bool)
    mask[0, 0] = mask[1, 1] = mask[4, 4] = True  # two of these touch, the third is isolated
    pixels, weights = region_weights(mask)
    assert pixels.tolist() == [0, 6, 24]
    assert weights.tolist() == [0.5, 0.5, 1]


def test_small_regions_count_as_much_as_large_regions():
    maps, masks = np.zeros((2, 10, 10)), np.zeros((2, 10, 10), bool)
    masks[0, :5], masks[1, 0, 0] = True, True
    maps[1, 0, 0] = 1  # only the small region is detected
    # The overlap is 0.5 at FPR 0, and rises along a straight line to 1 at FPR 1: 0.65 at 0.3.
    assert pixel_metrics(maps, masks)["pixel_aupro"] == pytest.approx((0.5 + 0.65) / 2)


def test_every_metric_of_a_perfect_map_is_one():
    _, masks = random_case(1)
    assert set(pixel_metrics(masks.astype(np.float32), masks).values()) == {1.0}


def test_metrics_are_invariant_to_monotone_transforms_of_scores():
    for seed in range(20):
        maps, masks = random_case(seed)
        expected = pixel_metrics(maps, masks)
        for transform in (np.exp, lambda x: -1 / (x + 1), lambda x: x * 1e30, lambda x: x**3 - 5):
            assert pixel_metrics(transform(maps.astype(np.float64)), masks) == expected


def test_metrics_do_not_depend_on_the_order_of_images():
    maps, masks = random_case(4)
    expected = pixel_metrics(maps, masks)
    assert pixel_metrics(maps[::-1], masks[::-1]) == pytest.approx(expected, abs=1e-15)


def test_counts_do_not_depend_on_the_batch_size(monkeypatch):
    rng = np.random.default_rng(2)
    masks = rng.random((9, 20, 20)) < 0.05
    maps = rng.integers(0, 50, masks.shape).astype(np.float32)
    expected = PixelEvaluator(masks).count_scores(maps)
    for size, threads in ((1, 1), (401, 1), (900, 4), (4000, 2), (4000, 20)):
        monkeypatch.setattr("utils.evaluation.counters.BATCH", size)
        monkeypatch.setattr("utils.evaluation.metrics.THREADS", threads)
        for counts, same in zip(PixelEvaluator(masks).count_scores(maps), expected, strict=True):
            np.testing.assert_array_equal(counts, same)


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
def test_scores_of_every_type_are_ranked_exactly(values):
    rng = np.random.default_rng(0)
    maps = values[rng.integers(0, len(values), (3, 20, 20))]
    masks = rng.random(maps.shape) < 0.2
    _, ranks = np.unique(maps.astype(np.float64), return_inverse=True)
    expected = pixel_metrics(ranks.reshape(maps.shape).astype(np.float32), masks)
    assert pixel_metrics(maps, masks) == expected


def test_minus_zero_ties_with_zero():
    maps = np.array([[[-0.0, 0.0, 0.0, -0.0]]], np.float32)
    masks = np.array([[[1, 0, 1, 0]]])
    assert pixel_metrics(maps, masks)["pixel_auroc"] == 0.5


def test_constant_maps_have_the_metrics_of_chance():
    maps, masks = np.full((2, 4, 4), 0.7, np.float32), np.zeros((2, 4, 4), bool)
    masks[0, :2] = True
    # A quarter is anomalous: AUROC 1/2, precision 1/4, F1 2/5; the overlap is the diagonal.
    expected = {"pixel_auroc": 0.5, "pixel_aupr": 0.25, "pixel_f1_max": 0.4, "pixel_aupro": 0.15}
    assert pixel_metrics(maps, masks) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0, 1])
def test_metrics_are_undefined_if_all_pixels_or_images_have_the_same_label(value):
    values = pixel_metrics(np.random.rand(2, 3, 3), np.full((2, 3, 3), value))
    assert tuple(values) == PIXEL_METRICS
    assert np.isnan(list(values.values())).all()
    assert np.isnan(list(image_metrics(np.array([0.2, 0.4]), np.full(2, value)).values())).all()


def test_metrics_of_no_images_are_undefined():
    values = image_metrics(np.zeros(0), np.zeros(0)) | pixel_metrics(np.zeros((0, 2, 2)), [])
    assert tuple(values) == METRICS
    assert np.isnan(list(values.values())).all()


@pytest.mark.parametrize("mask_type", [np.uint8, np.int64, np.float32])
def test_any_mask_value_above_zero_is_anomalous(mask_type):
    maps, masks = random_case(6)
    expected = pixel_metrics(maps, masks)
    ids = masks.astype(mask_type) * np.random.default_rng(0).integers(1, 200, masks.shape)
    assert pixel_metrics(maps, ids.astype(mask_type)) == expected


@pytest.mark.parametrize("pixels", ["normal", "anomalous"])
def test_nan_scores_are_an_error_that_names_the_map(pixels):
    maps, masks = random_case(6)
    maps, masks = np.stack([maps[0], maps[0]]), np.stack([masks[0], masks[0]])
    maps[1][masks[1] == (pixels == "anomalous")] = np.nan
    with pytest.raises(InputError, match="map 1 has NaN"):
        pixel_metrics(maps, masks)


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function", [image_metrics, f1_max_threshold])
def test_image_scores_that_are_not_finite_are_an_error_that_names_the_image(function, score):
    with pytest.raises(InputError, match=f"image 1 has the score {score}: expected a finite"):
        function(np.array([0.1, score]), np.array([0, 1]))


def test_shapes_that_do_not_match_are_an_error():
    maps = np.zeros((2, 3, 4))
    for masks in (np.zeros((1, 3, 4)), np.zeros((2, 4, 3)), np.zeros((2, 3, 5))):
        with pytest.raises(InputError, match="give"):
            pixel_metrics(maps, masks)
    with pytest.raises(InputError, match=r"scores \(3,\) and labels \(2,\): expected \(N,\)"):
        image_metrics(np.zeros(3), np.zeros(2))


def test_maps_need_not_be_contiguous():
    maps, masks = random_case(8)
    expected = pixel_metrics(maps, masks)
    assert pixel_metrics(np.asfortranarray(maps), np.asfortranarray(masks)) == expected
    assert pixel_metrics(np.repeat(maps, 2, axis=2)[:, :, ::2], masks) == expected


class LazyMaps:
    """A sequence that makes its maps when they are read, and counts the reads."""

    def __init__(self, maps):
        self.maps, self.reads = maps, 0

    def __len__(self):
        return len(self.maps)

    def __getitem__(self, index):
        self.reads += 1
        return self.maps[index].copy()


@pytest.mark.parametrize(("stored", "reads"), [(0, 2), (99, 1)])
def test_a_lazy_sequence_of_maps_of_different_shapes_is_read_twice_if_it_is_large(
    monkeypatch, stored, reads
):
    monkeypatch.setattr("utils.evaluation.metrics.STORED_PIXELS", stored)
    rng = np.random.default_rng(3)
    shapes = [(4, 5), (7, 3), (6, 6)]
    masks = [rng.random(shape) < 0.3 for shape in shapes]
    maps = [rng.integers(0, 9, shape).astype(np.float32) for shape in shapes]
    lazy = LazyMaps(maps)
    values = pixel_metrics(lazy, masks)
    assert lazy.reads == reads * len(shapes)
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([scores.ravel() for scores in maps])
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert values["pixel_aupro"] == pytest.approx(slow_aupro(maps, masks), abs=1e-9)


def test_an_evaluator_can_be_used_for_many_runs():
    maps, masks = random_case(9)
    evaluator = PixelEvaluator(masks)
    first, negated, again = (evaluator.count_scores(scores) for scores in (maps, -maps, maps))
    assert evaluator.metrics(first) == evaluator.metrics(again) == pixel_metrics(maps, masks)
    assert evaluator.metrics(negated) == pixel_metrics(-maps, masks)


def test_the_f1_threshold_has_the_highest_f1():
    # At 0.3: 4 true positives, 1 false, F1 = 8/9; at 0.7: 3 true positives, none false, F1 = 6/7.
    scores = np.array([0.1, 0.2, 0.6, 0.3, 0.7, 0.8, 0.9], np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    assert f1_max_threshold(scores, labels) == np.float32(0.3)


def test_the_lowest_of_equally_good_f1_thresholds_is_returned():
    # At 0.5: 2 true positives, 2 false, F1 = 4/6; at 0.9: 1 true positive, none false, F1 = 2/3.
    scores, labels = np.array([0.9, 0.7, 0.6, 0.5]), np.array([1, 0, 0, 1])
    assert f1_max_threshold(scores, labels) == 0.5


def test_equal_f1_tie_despite_rounding():
    """Compare with F1 as exact fractions 2 TP / (2 TP + FP + FN)."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        labels = np.append(rng.integers(0, 2, 30), [0, 1])
        scores = rng.integers(0, 20, 32) / 3
        f1 = {}
        for threshold in np.unique(scores):
            predicted = scores >= threshold
            hits = int((predicted & (labels == 1)).sum())
            f1[threshold] = Fraction(2 * hits, int(predicted.sum() + labels.sum()))
        assert f1_max_threshold(scores, labels) == min(t for t in f1 if f1[t] == max(f1.values()))


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_the_f1_threshold_is_undefined_for_a_single_label(labels):
    assert np.isnan(f1_max_threshold(np.array([0.1, 0.2, 0.3]), np.array(labels)))


def test_images_of_unknown_labels_are_left_out():
    scores, labels = np.array([0.1, 0.9, 0.3, 0.2]), np.array([0, -1, 1, 0])
    known = labels >= 0
    assert image_metrics(scores, labels) == image_metrics(scores[known], labels[known])
    assert f1_max_threshold(scores, labels) == 0.3
    assert all(np.isnan(value) for value in image_metrics(scores, labels * 0 - 1).values())

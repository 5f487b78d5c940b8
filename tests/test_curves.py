"""Curves: worked examples, and areas that equal the metrics."""

import numpy as np
import pytest

from utils.evaluation.curves import (
    MAX_POINTS,
    cumulative_curve,
    image_curves,
    pixel_curves,
    precision_recall_curve,
    pro_curve,
    subsample,
)
from utils.evaluation.metrics import FPR_LIMIT, PixelEvaluator, image_metrics

# From the highest score down: anomalous, good, a tie of both, good.
SCORES, LABELS = np.array([0.9, 0.7, 0.5, 0.5, 0.1]), np.array([1, 0, 1, 0, 0])


def area(curve):
    x, y = curve.T
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def pixel_case():
    """Return an evaluator of two images with regions of different sizes, and maps with ties."""
    rng = np.random.default_rng(0)
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 3:9, 4:20] = masks[0, 30:33, 30:33] = masks[1, 20, 20] = True
    maps = np.round(rng.normal(size=masks.shape) + 1.5 * masks, 2).astype(np.float32)
    return PixelEvaluator(masks), maps


def test_a_tie_is_a_slope_of_the_roc_curve():
    curve = image_curves(SCORES, LABELS)["image_auroc"]
    corners = [(0, 0), (0, 0.5), (1 / 3, 0.5), (2 / 3, 1), (1, 1)]
    np.testing.assert_allclose(np.unique(curve, axis=0), corners)
    assert area(curve) == pytest.approx(image_metrics(SCORES, LABELS)["image_auroc"])


def test_the_precision_recall_curve_has_steps():
    curve = image_curves(SCORES, LABELS)["image_aupr"]
    np.testing.assert_allclose(curve, [(0, 1), (0.5, 1), (0.5, 0.5), (1, 0.5)])
    assert area(curve) == pytest.approx(image_metrics(SCORES, LABELS)["image_aupr"])


def test_areas_of_pixel_curves_equal_the_metrics():
    pixels, maps = pixel_case()
    counts = pixels.count_scores(maps)
    metrics = pixels.metrics(counts)
    roc, pro = cumulative_curve(counts, counts.positives), pro_curve(counts)
    assert area(roc) == pytest.approx(metrics["pixel_auroc"])
    assert area(precision_recall_curve(counts)) == pytest.approx(metrics["pixel_aupr"])
    assert area(pro) / FPR_LIMIT == pytest.approx(metrics["pixel_aupro"])
    assert pro[-1, 0] == FPR_LIMIT
    assert (np.diff(pro, axis=0) >= 0).all()


def test_the_pro_curve_weights_regions_equally():
    mask = np.array([[1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]], bool)
    scores = np.array([[9, 9, 9, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    curve = pro_curve(PixelEvaluator(mask[None]).count_scores(scores[None]))
    corners = [(0, 0), (0, 0.5), (0.1, 0.5), (0.1, 1), (FPR_LIMIT, 1)]
    np.testing.assert_allclose(np.unique(curve, axis=0), corners)


def test_subsampling_keeps_both_ends_and_nearly_the_area():
    x = np.linspace(0, 1, 5000)
    curve = np.column_stack([x, np.sqrt(x)])
    small = subsample(curve)
    assert len(small) <= MAX_POINTS
    assert small[0].tolist() == [0, 0] and small[-1].tolist() == [1, 1]
    assert area(small) == pytest.approx(area(curve), abs=1e-3)


def test_curves_are_named_after_their_areas_and_subsampled():
    pixels, maps = pixel_case()
    curves = image_curves(SCORES, LABELS) | pixel_curves(pixels.count_scores(maps))
    names = ["image_auroc", "image_aupr", "pixel_auroc", "pixel_aupr", "pixel_aupro"]
    assert list(curves) == names
    assert max(map(len, curves.values())) <= MAX_POINTS


@pytest.mark.parametrize("value", [0, 1])
def test_curves_have_no_points_if_all_labels_are_the_same(value):
    masks = np.full((1, 1, 3), value)
    pixels = pixel_curves(PixelEvaluator(masks).count_scores(np.zeros((1, 1, 3))))
    curves = image_curves(np.array([0.1, 0.2, 0.3]), np.full(3, value)) | pixels
    assert len(curves) == 5
    assert {curve.shape for curve in curves.values()} == {(0, 2)}

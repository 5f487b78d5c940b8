"""Curves: worked examples by hand, and areas that are the metrics."""

import numpy as np
import pytest

from utils.evaluation.curves import (
    POINTS,
    curves_of,
    f1_threshold,
    precision_recall,
    region_overlap,
    roc,
    thin,
)
from utils.evaluation.metrics import FPR_LIMIT, PixelEvaluator, count_image_scores, image_metrics

# From the highest score down: anomalous, good, a tie of both, good.
SCORES, LABELS = np.array([0.9, 0.7, 0.5, 0.5, 0.1]), np.array([1, 0, 1, 0, 0])


def area(curve):
    x, y = curve.T
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def pixel_case():
    """Two images with noisy maps; regions of different sizes; ties by rounding."""
    rng = np.random.default_rng(0)
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 3:9, 4:20] = masks[0, 30:33, 30:33] = masks[1, 20, 20] = True
    maps = np.round(rng.normal(size=masks.shape) + 1.5 * masks, 2).astype(np.float32)
    return PixelEvaluator(masks), maps


def test_the_roc_of_a_tie_is_a_slope():
    curve = roc(count_image_scores(SCORES, LABELS))
    corners = [(0, 0), (0, 0.5), (1 / 3, 0.5), (2 / 3, 1), (1, 1)]
    np.testing.assert_allclose(np.unique(curve, axis=0), corners)
    assert area(curve) == pytest.approx(image_metrics(SCORES, LABELS)["image_auroc"])


def test_precision_recall_is_drawn_in_steps():
    curve = precision_recall(count_image_scores(SCORES, LABELS))
    np.testing.assert_allclose(curve, [(0, 1), (0.5, 1), (0.5, 0.5), (1, 0.5)])
    assert area(curve) == pytest.approx(image_metrics(SCORES, LABELS)["image_aupr"])


def test_areas_of_pixel_curves_are_the_metrics():
    pixels, maps = pixel_case()
    ranking, metrics = pixels.count_scores(maps), pixels(maps)
    assert area(roc(ranking)) == pytest.approx(metrics["pixel_auroc"])
    assert area(precision_recall(ranking)) == pytest.approx(metrics["pixel_aupr"])
    overlap = region_overlap(ranking)
    assert area(overlap) / FPR_LIMIT == pytest.approx(metrics["pixel_aupro"])
    assert overlap[-1, 0] == FPR_LIMIT
    assert (np.diff(overlap, axis=0) >= 0).all()


def test_region_overlap_counts_a_region_and_not_its_pixels():
    mask = np.array([[1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]], bool)
    scores = np.array([[9, 9, 9, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    overlap = region_overlap(PixelEvaluator(mask[None]).count_scores(scores[None]))
    corners = [(0, 0), (0, 0.5), (0.1, 0.5), (0.1, 1), (FPR_LIMIT, 1)]
    np.testing.assert_allclose(np.unique(overlap, axis=0), corners)


def test_a_thinned_curve_keeps_its_ends_and_nearly_its_area():
    x = np.linspace(0, 1, 5000)
    curve = np.column_stack([x, np.sqrt(x)])
    small = thin(curve)
    assert len(small) <= POINTS
    assert small[0].tolist() == [0, 0] and small[-1].tolist() == [1, 1]
    assert area(small) == pytest.approx(area(curve), abs=1e-3)


def test_curves_of_a_run_are_named_by_their_areas():
    pixels, maps = pixel_case()
    curves = curves_of(count_image_scores(SCORES, LABELS), pixels.count_scores(maps))
    names = ["image_auroc", "image_aupr", "pixel_auroc", "pixel_aupr", "pixel_aupro"]
    assert list(curves) == names
    assert max(map(len, curves.values())) <= POINTS


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_without_both_kinds_there_is_no_curve_and_no_threshold(labels):
    scores, labels = np.array([0.1, 0.2, 0.3]), np.array(labels)
    ranking = count_image_scores(scores, labels)
    assert {len(draw(ranking)) for draw in (roc, precision_recall, region_overlap)} == {0}
    assert np.isnan(f1_threshold(scores, labels))


def test_the_threshold_has_the_highest_f1():
    # From 0.3: 4 found, 1 false, F1 = 8/9; from 0.7: 3 found, none false, F1 = 6/7.
    scores = np.array([0.1, 0.2, 0.6, 0.3, 0.7, 0.8, 0.9], np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    assert f1_threshold(scores, labels) == np.float32(0.3)


def test_of_equally_good_thresholds_the_lowest_is_taken():
    # From 0.5: 2 found, 2 false, F1 = 4/6; from 0.9: 1 found, none false, F1 = 2/3.
    scores, labels = np.array([0.9, 0.7, 0.6, 0.5]), np.array([1, 0, 0, 1])
    assert f1_threshold(scores, labels) == 0.5

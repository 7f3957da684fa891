"""Brier score, reliability bins and thresholds against slow references and known populations."""

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from mlcak_hf.evaluation.bootstrap import draw_weights
from mlcak_hf.evaluation.calibration import (
    at_threshold,
    brier_score,
    calibration_draws,
    expected_calibration_error,
    operating_threshold,
    operating_thresholds,
    reliability,
)
from mlcak_hf.evaluation.scores import local_scores


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    return scores, (rng.random(400) < scores).astype(np.int8)


def test_brier_score_equals_scikit_learn_and_leaves_missing_out(sample):
    scores, labels = sample
    labels[:50] = -1
    assert brier_score(scores, labels) == pytest.approx(brier_score_loss(labels[50:], scores[50:]), abs=1e-12)
    assert math.isnan(brier_score(scores, np.full(400, -1, dtype=np.int8)))


def test_calibration_error_equals_a_slow_reference(sample):
    scores, labels = sample
    order = np.argsort(scores)
    bins = np.array_split(order, 10)
    slow = sum(len(b) / 400 * abs(scores[b].mean() - labels[b].mean()) for b in bins)
    assert expected_calibration_error(scores, labels) == pytest.approx(slow, abs=1e-12)
    assert reliability(scores, labels).count.tolist() == [40] * 10


def test_calibration_error_tells_honest_from_boastful():
    rng = np.random.default_rng(0)
    truth = rng.random(20000)
    labels = (rng.random(20000) < truth).astype(np.int8)
    assert expected_calibration_error(truth, labels) < 0.02
    assert expected_calibration_error(np.where(truth > 0.5, 0.99, 0.01), labels) == pytest.approx(0.24, abs=0.02)


def test_ties_share_a_bin_whatever_the_order():
    scores = np.repeat([0.2, 0.7], 50)
    labels = np.tile([0, 1], 50).astype(np.int8)
    shuffled = np.random.default_rng(0).permutation(100)
    bins = reliability(scores, labels)
    assert bins.count.tolist() == [50, 50]
    assert bins.expected_calibration_error == pytest.approx(0.25)
    assert expected_calibration_error(scores[shuffled], labels[shuffled]) == pytest.approx(0.25)


def test_calibration_error_weighs_bins_by_their_images():
    # 90 images of which the score is right, 10 of which it is off by 0.4: ties make two unequal bins.
    scores = np.repeat([0.2, 0.9], [90, 10])
    labels = np.concatenate([np.repeat([1, 0], [18, 72]), np.repeat([1, 0], [5, 5])]).astype(np.int8)
    assert reliability(scores, labels).count.tolist() == [90, 10]
    assert expected_calibration_error(scores, labels) == pytest.approx(0.1 * 0.4)


def test_missing_labels_count_neither_in_the_brier_score_nor_in_its_draws():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, 2))
    task = local_scores(rng.random((60, 2)), labels, "ab")
    scores = np.concatenate([task.scores, np.full((40, 2), 0.99)])
    missing = local_scores(scores, np.concatenate([labels, np.full((40, 2), -1)]), "ab")
    weights = draw_weights(range(100), 50)
    known = calibration_draws(task, weights[:60])["brier_global"]
    found = calibration_draws(missing, weights)["brier_global"]
    assert found.value == pytest.approx(known.value, abs=1e-12)
    assert found.draws == pytest.approx(known.draws, abs=1e-12)


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.9, 0.95, 1.0])
def test_threshold_is_the_lowest_that_keeps_the_specificity(sample, specificity):
    scores, labels = sample
    threshold = operating_threshold(scores, labels, specificity)
    point = at_threshold(scores, labels, threshold)
    assert point.specificity >= specificity
    lower = scores[scores < threshold]
    if len(lower):
        assert at_threshold(scores, labels, lower.max()).specificity < specificity


def test_threshold_at_the_edges():
    labels = np.array([0] * 10 + [1], dtype=np.int8)
    scores = np.append(np.arange(10) / 10, 0.85)
    assert operating_threshold(scores, labels) == pytest.approx(0.825)  # nine of ten negatives lie below
    certain, healthy = np.ones(3), np.zeros(3, dtype=np.int8)
    assert at_threshold(certain, healthy, operating_threshold(certain, healthy)).specificity == 1.0
    assert math.isnan(operating_threshold(scores, np.ones(11, dtype=np.int8)))
    close = np.array([0.5, np.nextafter(0.5, 1)])
    assert at_threshold(close, np.array([0, 1]), operating_threshold(close, np.array([0, 1]))).sensitivity == 1.0


def test_thresholds_go_label_by_label(sample):
    scores, labels = sample
    masked = labels.copy()
    masked[::2] = -1
    task = local_scores(np.stack([scores, scores], axis=1), np.stack([labels, masked], axis=1), "ab")
    assert operating_thresholds(task) == pytest.approx(
        [operating_threshold(scores, labels), operating_threshold(scores[1::2], labels[1::2])]
    )
    point = at_threshold(scores, np.full(400, -1, dtype=np.int8), 0.5)
    assert (point.positives, point.negatives) == (0, 0)
    assert math.isnan(point.sensitivity)

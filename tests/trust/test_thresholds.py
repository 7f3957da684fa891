"""Thresholds against slow references, and the guarantee of the triage limits against simulated patients."""

import math

import numpy as np
import pytest

from mlcak_hf.trust.thresholds import (
    threshold_at_sensitivity,
    threshold_at_specificity,
    triage,
    triage_limits,
    youden_threshold,
)


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    return scores, (rng.random(400) < scores).astype(np.int8)


def rates(scores, labels, threshold):
    """Sensitivity and specificity: an image is positive if its score reaches the threshold."""
    flagged = scores >= threshold
    return flagged[labels == 1].mean(), (~flagged[labels == 0]).mean()


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.9, 0.95, 1.0])
def test_threshold_is_the_lowest_that_keeps_the_specificity(sample, specificity):
    scores, labels = sample
    threshold = threshold_at_specificity(scores, labels, specificity)
    assert rates(scores, labels, threshold)[1] >= specificity
    lower = scores[scores < threshold]
    if len(lower):
        assert rates(scores, labels, lower.max())[1] < specificity


def test_threshold_at_the_edges():
    labels = np.array([0] * 10 + [1], dtype=np.int8)
    scores = np.append(np.arange(10) / 10, 0.85)
    assert threshold_at_specificity(scores, labels, 0.9) == pytest.approx(0.825)  # nine of ten negatives are below
    certain, healthy = np.ones(3), np.zeros(3, dtype=np.int8)
    assert threshold_at_specificity(certain, healthy, 0.9) > 1.0
    assert math.isnan(threshold_at_specificity(scores, np.ones(11, dtype=np.int8), 0.9))
    close = np.array([0.5, np.nextafter(0.5, 1)])
    assert threshold_at_specificity(close, np.array([0, 1]), 0.9) == close[1]


@pytest.mark.parametrize("sensitivity", [0.0, 0.5, 0.9, 0.95, 1.0])
def test_threshold_is_the_highest_that_keeps_the_sensitivity(sample, sensitivity):
    scores, labels = sample
    threshold = threshold_at_sensitivity(scores, labels, sensitivity)
    assert rates(scores, labels, threshold)[0] >= sensitivity
    higher = scores[(scores > threshold) & (labels == 1)]
    if sensitivity and len(higher):
        assert rates(scores, labels, np.nextafter(higher.min(), 2))[0] < sensitivity
    assert math.isnan(threshold_at_sensitivity(scores, np.zeros(400, np.int8), 0.9))


def test_sensitivity_and_specificity_mirror_each_other(sample):
    scores, labels = sample
    mirrored = threshold_at_sensitivity(1 - scores, 1 - labels, 0.9)
    assert mirrored == pytest.approx(1 - threshold_at_specificity(scores, labels, 0.9))


def test_youdens_threshold_has_the_largest_sum_of_sensitivity_and_specificity(sample):
    scores, labels = sample
    labels[:40] = -1
    best = sum(rates(scores, labels, youden_threshold(scores, labels)))
    assert best == pytest.approx(max(sum(rates(scores, labels, threshold)) for threshold in scores))
    assert not (scores == youden_threshold(scores, labels)).any(), "no image is exactly on it"
    assert math.isnan(youden_threshold(scores, np.ones(400, np.int8)))


def test_triage_limits_are_order_statistics():
    scores, labels = np.arange(60) / 60, np.array([0, 1, -1] * 20)
    positives, negatives = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    assert triage_limits(scores, labels, 0.1) == (positives[1], negatives[-2])  # floor(0.1 * 21) = 2
    assert triage_limits(scores, labels, 0.04) == (None, None)  # floor(0.04 * 21) = 0


@pytest.mark.parametrize(
    ("score", "limits", "expected"),
    [
        (0.1, (0.3, 0.7), "low"),
        (0.5, (0.3, 0.7), "unsure"),
        (0.9, (0.3, 0.7), "high"),
        (0.5, (0.7, 0.3), "unsure"),  # no positive and no negative is there: neither class fits
        (0.2, (0.7, 0.3), "low"),
        (0.3, (0.3, 0.3), "unsure"),
        (0.9, (0.3, None), "unsure"),
    ],
)
def test_triage(score, limits, expected):
    assert triage(score, *limits) == expected


def test_the_next_positive_is_low_and_the_next_negative_high_as_rarely_as_promised():
    """Over calibration sets and next images: exactly k / (n + 1) without ties, here 2 of 48 and 4 of 83."""
    random = np.random.default_rng(0)
    labels = np.repeat([1, 0], [47, 82])
    low, high = [], []
    for _ in range(4000):
        limits = triage_limits(random.normal(labels, 1), labels, 0.05)
        low.append(random.normal(1, 1, 5) < limits[0])
        high.append(random.normal(0, 1, 5) > limits[1])
    assert np.mean(low) == pytest.approx(2 / 48, abs=0.004)
    assert np.mean(high) == pytest.approx(4 / 83, abs=0.004)


def test_one_image_of_each_patient_counts():
    """Ninety images of one positive patient say no more than one."""
    scores = np.concatenate([np.full(90, 0.9), np.linspace(0.1, 0.5, 19)])
    groups = ["many"] * 90 + [f"patient {number}" for number in range(19)]
    assert triage_limits(scores, np.ones(109), 0.05)[0] > 0.18
    assert triage_limits(scores, np.ones(109), 0.05, groups)[0] == 0.1
    assert triage_limits(scores, np.ones(109), 0.05, [None] * 109)[0] > 0.18, "unknown patients are one each"

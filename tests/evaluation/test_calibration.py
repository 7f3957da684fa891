"""Brier score, reliability bins and thresholds against slow references and known populations."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from mlcak_hf.evaluation.bootstrap import draw_weights
from mlcak_hf.evaluation.calibration import (
    calibration_draws,
    calibration_floor,
    operating_thresholds,
    reliability,
    threshold_draws,
)
from mlcak_hf.evaluation.scores import local_scores
from mlcak_hf.trust.thresholds import threshold_at_specificity


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    return scores, (rng.random(400) < scores).astype(np.int8)


def calibration_error(scores, labels):
    return reliability(scores, labels).expected_calibration_error


def rates(scores, labels, threshold):
    """Sensitivity and specificity: an image is positive if its score reaches the threshold."""
    flagged = scores >= threshold
    return flagged[labels == 1].mean(), (~flagged[labels == 0]).mean()


def test_brier_score_equals_scikit_learn_and_leaves_missing_out(sample):
    scores, labels = sample
    labels[:50] = -1
    task = local_scores(scores[:, None], labels[:, None], "a")
    found = calibration_draws(task, draw_weights(range(400), 40))
    assert found["brier_global"].value == pytest.approx(brier_score_loss(labels[50:], scores[50:]), abs=1e-12)
    assert (
        calibration_draws(local_scores(scores[:, None], np.full((400, 1), -1), "a"), draw_weights(range(400), 40)) == {}
    )


def test_calibration_error_equals_a_slow_reference(sample):
    scores, labels = sample
    order = np.argsort(scores)
    bins = np.array_split(order, 10)
    slow = sum(len(b) / 400 * abs(scores[b].mean() - labels[b].mean()) for b in bins)
    assert calibration_error(scores, labels) == pytest.approx(slow, abs=1e-12)
    assert reliability(scores, labels).count == (40,) * 10


def test_calibration_error_is_small_for_true_probabilities_and_large_for_overconfident_ones():
    rng = np.random.default_rng(0)
    truth = rng.random(20000)
    labels = (rng.random(20000) < truth).astype(np.int8)
    assert calibration_error(truth, labels) < 0.02
    assert calibration_error(np.where(truth > 0.5, 0.99, 0.01), labels) == pytest.approx(0.24, abs=0.02)


def test_ties_share_a_bin_whatever_the_order():
    scores = np.repeat([0.2, 0.7], 50)
    labels = np.tile([0, 1], 50).astype(np.int8)
    shuffled = np.random.default_rng(0).permutation(100)
    bins = reliability(scores, labels)
    assert bins.count == (50, 50)
    assert bins.expected_calibration_error == pytest.approx(0.25)
    assert calibration_error(scores[shuffled], labels[shuffled]) == pytest.approx(0.25)


def test_calibration_error_weighs_bins_by_their_images():
    # The score is right for 90 images and off by 0.4 for 10; ties make two unequal bins.
    scores = np.repeat([0.2, 0.9], [90, 10])
    labels = np.concatenate([np.repeat([1, 0], [18, 72]), np.repeat([1, 0], [5, 5])]).astype(np.int8)
    assert reliability(scores, labels).count == (90, 10)
    assert calibration_error(scores, labels) == pytest.approx(0.1 * 0.4)


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


def test_calibration_is_averaged_over_the_annotated_labels_also_those_that_never_occur():
    task = local_scores([[0.2, 0.1, 0.5], [0.9, 0.3, 0.5]], [[0, 0, -1], [1, 0, -1]], "abc")
    found = calibration_draws(task, draw_weights(range(2), 40))
    assert found["brier_global"].value == pytest.approx(((0.04 + 0.01) / 2 + (0.01 + 0.09) / 2) / 2)
    assert found["calibration_error_global"].value == pytest.approx(((0.2 + 0.1) / 2 + (0.1 + 0.3) / 2) / 2)
    assert not len(found["calibration_error_global"].draws)


def test_thresholds_go_label_by_label(sample):
    scores, labels = sample
    masked = labels.copy()
    masked[::2] = -1
    task = local_scores(np.stack([scores, scores], axis=1), np.stack([labels, masked], axis=1), "ab")
    assert operating_thresholds(task) == pytest.approx(
        [threshold_at_specificity(scores, labels, 0.9), threshold_at_specificity(scores[1::2], labels[1::2], 0.9)]
    )


def test_rates_at_thresholds_are_averaged_over_the_labels_with_both_classes(sample):
    scores, labels = sample
    masked = np.where(np.arange(400) % 2, labels, -1)
    task = local_scores(np.stack([scores] * 3, axis=1), np.stack([labels, masked, np.zeros(400)], axis=1), "abc")
    weights = draw_weights(range(400), 50)
    # An image is positive if its score reaches the threshold.
    found = threshold_draws(task, np.array([scores[0], scores[1], np.nan]), weights)
    pairs = [(labels, scores[0]), (masked, scores[1])]
    for place, key in enumerate(("sensitivity_at_threshold_global", "specificity_at_threshold_global")):
        expected = np.mean([rates(scores, truth, threshold)[place] for truth, threshold in pairs])
        assert found[key].value == pytest.approx(expected)
        drawn = np.repeat(np.arange(400), weights[:, 7])
        expected = np.mean([rates(scores[drawn], truth[drawn], threshold)[place] for truth, threshold in pairs])
        assert found[key].draws[7] == pytest.approx(expected)
    assert threshold_draws(task, np.array([0.4, np.nan, 0.5]), weights) == {}
    assert threshold_draws(task, None, weights) == {}


def test_floor_of_the_calibration_error_equals_a_slow_reference(sample):
    scores, _ = sample
    task = local_scores(scores[:, None], np.ones((400, 1)), "a")
    random = np.random.default_rng(1)
    slow = [calibration_error(scores, (random.random(400) < scores).astype(np.int8)) for _ in range(1000)]
    floor = calibration_floor(task)
    assert floor.mean == pytest.approx(np.mean(slow), rel=0.03)
    assert floor.percentile_95 == pytest.approx(np.quantile(slow, 0.95), rel=0.1)


def test_true_probabilities_stay_below_their_floor_and_overconfident_ones_do_not():
    random = np.random.default_rng(0)
    below = 0
    for _ in range(100):
        truth = random.random(300)
        labels = (random.random(300) < truth).astype(np.int8)
        floor = calibration_floor(local_scores(truth[:, None], labels[:, None], "a"), draws=200)
        below += calibration_error(truth, labels) < floor.percentile_95
    assert 89 <= below <= 99  # 95 expected
    certain = local_scores(np.where(truth > 0.5, 0.99, 0.01)[:, None], labels[:, None], "a")
    assert calibration_error(*certain.column(0)) > 3 * calibration_floor(certain).percentile_95


def test_the_floor_leaves_missing_labels_out_and_shrinks_with_the_number_of_images(sample):
    scores, labels = sample
    labels[:300] = -1
    task = local_scores(scores[:, None], labels[:, None], "a")
    assert calibration_floor(task) == calibration_floor(task.take(np.arange(300, 400)))
    assert calibration_floor(task).mean > 1.5 * calibration_floor(local_scores(scores[:, None], [[1]] * 400, "a")).mean
    assert calibration_floor(local_scores(scores[:, None], np.full((400, 1), -1), "a")) is None

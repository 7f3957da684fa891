"""Bootstrap statistics against copied samples and scikit-learn, and the coverage of the intervals."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from mlcak_hf.errors import MLCAKError
from mlcak_hf.evaluation.bootstrap import (
    draw_weights,
    group_indices,
    label_draws,
    mean_draws,
    percentile_interval,
    ranking_draws,
)
from mlcak_hf.evaluation.metrics import METRICS, task_metrics
from mlcak_hf.evaluation.scores import local_scores


@pytest.fixture
def sample():
    rng = np.random.default_rng(3)
    labels = rng.integers(-1, 2, 60).astype(np.int8)
    scores = np.round(rng.normal(size=60) + labels, 1)  # rounding makes ties
    groups = rng.integers(0, 25, 60)
    return scores, labels, draw_weights(groups, 50, seed=1)


@pytest.mark.parametrize("metric", METRICS)
def test_weighted_statistics_equal_those_of_copied_images(sample, metric):
    scores, labels, weights = sample
    for draw, value in enumerate(ranking_draws(metric, scores, labels, weights)):
        copies = np.repeat(np.arange(60), weights[:, draw])
        copies = copies[labels[copies] >= 0]
        assert value == pytest.approx(METRICS[metric](labels[copies], scores[copies]), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_the_lowest_score_counts(metric):
    scores, labels = np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1])
    (value,) = ranking_draws(metric, scores, labels, np.ones((3, 1), dtype=np.int32))
    assert value == pytest.approx(METRICS[metric](labels, scores))


def test_nothing_is_found_below_a_healthy_image_with_the_highest_score():
    scores, labels = np.array([0.9, 0.5, 0.1]), np.array([0, 1, 1])
    (value,) = ranking_draws("sensitivity_at_90_specificity", scores, labels, np.full((3, 1), 2, dtype=np.int32))
    assert value == 0.0


def test_the_allowed_share_of_false_positives_is_exactly_a_tenth():
    scores, labels = np.arange(12.0), np.array([0] * 9 + [1, 0, 1])
    (value,) = ranking_draws("sensitivity_at_90_specificity", scores, labels, np.ones((12, 1), dtype=np.int32))
    assert value == 1.0  # one of ten healthy images is above both


@pytest.mark.parametrize("metric", METRICS)
def test_with_folds_each_draw_is_the_mean_over_the_folds_of_copied_images(sample, metric):
    scores, labels, _ = sample
    folds, patients = np.arange(60) % 3, np.arange(60) // 6 * 3 + np.arange(60) % 3
    weights = draw_weights(patients, 50, seed=1, folds=folds)
    for draw, value in enumerate(ranking_draws(metric, scores, labels, weights, folds)):
        values, sizes = [], []
        for fold in range(3):
            copies = np.repeat(np.arange(60), weights[:, draw] * ((folds == fold) & (labels >= 0)))
            positives = (labels[copies] == 1).sum()
            if positives in (0, len(copies)):  # one class only: the fold has no part in this draw
                continue
            values.append(METRICS[metric](labels[copies], scores[copies]))
            sizes.append(positives * (len(copies) - positives) if metric == "auroc" else positives)
        assert value == pytest.approx(np.average(values, weights=sizes), abs=1e-12)


def test_patients_are_drawn_within_their_fold_and_must_not_be_in_two():
    folds = np.repeat([4, 7], [30, 10])
    weights = draw_weights(np.arange(40) // 2, 60, folds=folds)
    assert (weights[folds == 4].sum(axis=0) == 30).all()
    assert (weights[folds == 7].sum(axis=0) == 10).all()
    assert (weights.std(axis=1) > 0).all()
    with pytest.raises(MLCAKError, match="must be in one fold; 1 patients of fold 7 are in another one too"):
        draw_weights(np.append(np.arange(39), 0), 60, folds=folds)


def test_a_fold_with_one_class_has_no_part_in_the_mean():
    labels, scores = np.array([1, 0, 0, 1, 0, 0], dtype=np.int8), np.array([0.2, 0.1, 0.3, 0.8, 0.9, 0.1])
    folds = np.array([0, 0, 0, 0, 1, 1])
    task = local_scores(scores[:, None], labels[:, None], "a")
    task = replace(task, folds=folds)
    (value,), (mean,) = label_draws("auroc", task, np.ones((6, 1), np.int32))
    assert value == mean == pytest.approx(3 / 4)
    assert task_metrics(task)["auroc_global"] == pytest.approx(3 / 4)
    alone = replace(task, folds=np.array([0, 1, 1, 0, 1, 1]))
    assert task_metrics(alone)["single_class_labels"] == ["global/a"]
    assert np.isnan(label_draws("auroc", alone, np.ones((6, 1), np.int32))[0]).all()


def test_mean_leaves_unknown_values_out(sample):
    *_, weights = sample
    values = np.stack([np.arange(60.0), np.arange(60.0) ** 2], axis=1)
    values[::7, 0], values[3:9, 1] = np.nan, np.nan
    found = mean_draws(values, weights)
    assert found.value == pytest.approx(np.nanmean(values, axis=0).mean())
    for draw, value in enumerate(found.draws):
        drawn = np.repeat(values, weights[:, draw], axis=0)
        assert value == pytest.approx(np.nanmean(drawn, axis=0).mean(), abs=1e-9)


def test_draws_take_whole_groups_and_as_many_as_there_are():
    groups = np.array(["a", "b", "a", "c", "b", "a"])
    weights = draw_weights(groups, 200, seed=0)
    assert (weights[0] == weights[2]).all()
    assert (weights[1] == weights[4]).all()
    assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()
    assert weights.mean(axis=1) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("unknown", [None, ""])
def test_an_image_of_an_unknown_patient_is_a_group_of_its_own(unknown):
    groups = ["a", unknown, "a", unknown, unknown]
    index = group_indices(groups)
    assert len(set(index)) == 4
    assert index[0] == index[2]
    weights = draw_weights(groups, 200, seed=0)
    assert (weights[1] != weights[3]).any()
    assert (weights[[0, 1, 3, 4]].sum(axis=0) == 4).all()


def test_draws_repeat_by_seed():
    groups = np.arange(30)
    assert (draw_weights(groups, 40, 5) == draw_weights(groups, 40, 5)).all()
    assert (draw_weights(groups, 40, 5) != draw_weights(groups, 40, 6)).any()
    assert (draw_weights(groups) == draw_weights(groups, 2000, 0)).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rare", [0, 1])
def test_draws_with_one_class_are_dropped_and_counted(metric, rare):
    labels = np.array([rare] + [1 - rare] * 9, dtype=np.int8)
    scores = np.linspace(0, 1, 10)
    draws = ranking_draws(metric, scores, labels, draw_weights(np.arange(10), 1000, 0))
    interval = percentile_interval(draws)
    assert interval.dropped == np.isnan(draws).sum()
    assert interval.dropped / 1000 == pytest.approx(0.9**10, abs=0.05)
    assert interval.draws + interval.dropped == 1000


def test_an_interval_is_from_the_2_5th_to_the_97_5th_percentile():
    interval = percentile_interval(np.arange(1001) / 1000)
    assert (interval.low, interval.high) == pytest.approx((0.025, 0.975))


def test_an_interval_of_too_few_draws_is_undefined():
    interval = percentile_interval([0.9] * 39 + [math.nan] * 61)
    assert (interval.low, interval.high) == (None, None)
    assert (interval.draws, interval.dropped) == (39, 61)
    assert percentile_interval([0.9] * 40).low == pytest.approx(0.9)
    with pytest.raises(MLCAKError, match="at least 40"):
        draw_weights([1, 2], 39)


def test_macro_is_over_the_same_labels_in_every_draw():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (40, 3))
    labels[:, 1] = 0
    task = local_scores(rng.random((40, 3)), labels, "abc")
    per_label, macro = label_draws("auroc", task, draw_weights(np.arange(40), 50))
    assert np.isnan(per_label[1]).all()
    assert macro == pytest.approx(per_label[[0, 2]].mean(axis=0))
    task = local_scores(np.ones((40, 1)), np.ones((40, 1)), "a")
    assert np.isnan(label_draws("auroc", task, draw_weights(np.arange(40), 50))[1]).tolist() == [True] * 50


def test_macro_is_undefined_in_a_draw_without_both_classes_of_a_label():
    labels = np.zeros((40, 2))
    labels[::2, 0], labels[:2, 1] = 1, 1
    per_label, macro = label_draws("auroc", local_scores(np.eye(40)[:, :2], labels, "ab"), draw_weights(range(40), 50))
    undefined = np.isnan(per_label[1])
    assert 0 < undefined.sum() < 50
    assert not np.isnan(per_label[0]).any()
    assert np.isnan(macro).tolist() == undefined.tolist()


def covered(rng, n_groups, group_size, grouped, separation=1.0, spread=0.9):
    """One trial: does the interval hold the AUROC of the population?"""
    labels = np.repeat(rng.integers(0, 2, n_groups), group_size).astype(np.int8)
    shared = np.repeat(rng.normal(size=n_groups), group_size)
    scores = labels * separation + spread * shared + math.sqrt(1 - spread**2) * rng.normal(size=len(labels))
    groups = np.repeat(np.arange(n_groups), group_size) if grouped else np.arange(len(labels))
    draws = ranking_draws("auroc", scores, labels, draw_weights(groups, 300, seed=int(rng.integers(1 << 30))))
    interval = percentile_interval(draws)
    return interval.low <= norm.cdf(separation / math.sqrt(2)) <= interval.high


def test_intervals_cover_the_population_value():
    rng = np.random.default_rng(0)
    coverage = np.mean([covered(rng, 120, 1, grouped=True) for _ in range(400)])
    assert 0.91 <= coverage <= 0.98  # 0.95 +- 3 standard errors, and a little for the percentile method


def test_patients_with_several_images_need_groups():
    rng = np.random.default_rng(1)
    by_patient = np.mean([covered(rng, 60, 5, grouped=True) for _ in range(300)])
    by_image = np.mean([covered(rng, 60, 5, grouped=False) for _ in range(300)])
    assert by_patient >= 0.90
    assert by_image <= 0.80  # images of one patient are no independent evidence


def test_three_thousand_images_take_seconds():
    rng = np.random.default_rng(0)
    task = local_scores(rng.random((3000, 22)), rng.random((3000, 22)) < 0.1, [str(i) for i in range(22)])
    weights = draw_weights(np.arange(3000), 1000)
    start = time.perf_counter()
    label_draws("auroc", task, weights)
    assert time.perf_counter() - start < 6

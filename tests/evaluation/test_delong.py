"""DeLong's intervals and paired test, against the definition over all pairs of images, and where they are shown."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from test_report import predictions, seeds

from mlcak_hf.evaluation.compare import compare
from mlcak_hf.evaluation.comparison import Comparison
from mlcak_hf.evaluation.report.tables import markdown
from mlcak_hf.evaluation.report.wording import footer, statements
from mlcak_hf.evaluation.significance import delong, placement_values


def over_all_pairs(scores, labels):
    """DeLong, DeLong and Clarke-Pearson (1988), equations 3 to 6, one pair of images at a time: O(m n)."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = np.array([[[1.0 if x > y else 0.5 if x == y else 0.0 for y in of_n] for x in of_p]
                     for of_p, of_n in zip(positive.T, negative.T, strict=True)])  # fmt: skip
    aucs, by_positive, by_negative = wins.mean(axis=(1, 2)), wins.mean(axis=2), wins.mean(axis=1)
    covariance = np.zeros((len(aucs), len(aucs)))
    for i in range(len(aucs)):
        for j in range(len(aucs)):
            for parts in (by_positive, by_negative):
                size = parts.shape[1]
                spread = sum((parts[i, k] - aucs[i]) * (parts[j, k] - aucs[j]) for k in range(size)) / (size - 1)
                covariance[i, j] += spread / size
    return aucs, covariance


def drawn(seed, n=60, columns=3, decimals=1):
    """Scores with ties, correlated between columns."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.int8)
    shared = labels + rng.normal(size=n)
    return np.round(shared[:, None] + rng.normal(size=(n, columns)), decimals), labels


@pytest.mark.parametrize("seed", range(5))
def test_the_fast_algorithm_equals_the_definition_over_all_pairs(seed):
    scores, labels = drawn(seed)
    below, above = placement_values(scores, labels)
    aucs, covariance = over_all_pairs(scores, labels)
    np.testing.assert_allclose(below.mean(axis=0), aucs, atol=1e-12)
    np.testing.assert_allclose(above.mean(axis=0), aucs, atol=1e-12)
    assert aucs[0] == pytest.approx(roc_auc_score(labels, scores[:, 0]))
    np.testing.assert_allclose(np.cov(below.T) / len(below) + np.cov(above.T) / len(above), covariance, atol=1e-12)


def test_the_interval_and_the_paired_test_follow_from_the_covariance():
    scores, labels = drawn(7)
    aucs, s = over_all_pairs(scores, labels)
    alone = delong(labels, scores[:, :1])
    assert (alone.low, alone.high) == pytest.approx(
        (aucs[0] - 1.959964 * s[0, 0] ** 0.5, aucs[0] + 1.959964 * s[0, 0] ** 0.5)
    )
    assert alone.p_value is None
    paired = delong(labels, scores[:, :1], scores[:, 1:2])
    deviation = math.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    assert paired.p_value == pytest.approx(2 * norm.sf(abs(aucs[0] - aucs[1]) / deviation))
    assert paired.high - paired.low == pytest.approx(2 * 1.959964 * deviation)
    mean = delong(labels, scores[:, :2])  # two runs of one row
    spread = math.sqrt(s[0, 0] + s[1, 1] + 2 * s[0, 1]) / 2
    assert mean.high - mean.low == pytest.approx(2 * 1.959964 * spread)


def test_missing_labels_are_left_out_and_nothing_is_claimed_without_spread():
    scores, labels = drawn(3)
    more = np.append(labels, [-1, -1]).astype(np.int8)
    assert delong(more, np.vstack([scores, [[9.0] * 3, [-9.0] * 3]])) == delong(labels, scores)
    assert delong(labels, labels[:, None].astype(float)) is None, "a perfect ranking"
    assert delong(labels, scores, scores) is None, "a model and its copy"
    assert delong((np.arange(60) == 5).astype(np.int8), scores) is None, "one positive image"


def test_folds_are_averaged_by_their_pairs():
    (scores, labels), folds = drawn(5), np.arange(60) % 2
    parts = [over_all_pairs(scores[folds == fold], labels[folds == fold]) for fold in (0, 1)]
    pairs = [(labels[folds == fold] == 1).sum() * (labels[folds == fold] == 0).sum() for fold in (0, 1)]
    value = np.average([aucs[0] for aucs, _ in parts], weights=pairs)
    deviation = math.sqrt(sum(size**2 * s[0, 0] for size, (_, s) in zip(pairs, parts, strict=True))) / sum(pairs)
    found = delong(labels, scores[:, :1], folds=folds)
    assert (found.low, found.high) == pytest.approx((value - 1.959964 * deviation, value + 1.959964 * deviation))
    assert delong(labels, 100 * (folds == 1)[:, None] + scores[:, :1], folds=folds) == found


def test_equal_models_are_called_different_in_five_percent_of_2000_simulated_tests():
    rng = np.random.default_rng(0)
    labels = (np.arange(150) < 50).astype(np.int8)
    claims = 0
    for _ in range(2000):
        shared = 1.2 * labels + rng.normal(size=150)
        claims += delong(labels, *(shared[:, None] + rng.normal(size=(2, 150, 1)))).p_value < 0.05
    assert 0.035 < claims / 2000 < 0.065


def test_another_implementation_agrees():
    oracle = pytest.importorskip("MLstatkit.stats")
    scores, labels = drawn(11, n=200, decimals=6)
    _, p = oracle.Delong_test(labels, scores[:, 0], scores[:, 1])[:2]
    assert delong(labels, scores[:, :1], scores[:, 1:2]).p_value == pytest.approx(p, rel=1e-6)


def test_it_stands_beside_the_bootstrap_where_each_patient_has_one_image(tmp_path):
    patients = [f"patient-{number}" for number in range(90)]
    models = [*seeds("plain", (0.6, 0.8), groups=patients), *seeds("student", (0.62, 0.82), groups=patients, noise=1)]
    comparison = compare(models)
    estimate = comparison.row("student").metrics["auroc_global"]
    assert (estimate.delong.low, estimate.delong.high) == pytest.approx(
        (estimate.interval.low, estimate.interval.high), abs=0.02
    )
    assert comparison.row("student").metrics["auroc/Cardiomegaly"].delong is not None
    assert comparison.row("student").metrics["auroc_local_macro"].delong is None, "a mean over labels"
    (pair,) = (each for each in comparison.differences if each.metric == "auroc_global")
    scores = [np.stack([run.global_task.scores[:, 0] for run in runs], axis=1) for runs in (models[2:], models[:2])]
    assert pair.estimate.delong == delong(models[0].global_task.labels[:, 0], *scores)
    assert f"DeLong's test, patients only: p {pair.estimate.delong.p_value:.3f}" in statements(comparison)[0]
    lowest = comparison.row("plain").metrics["auroc_global"].delong.low
    note = f"DeLong's 95 % intervals of the global AUROC: plain [{lowest:.3f}, "
    assert any(line.startswith(note) for line in footer(comparison))
    assert note in markdown(comparison)
    comparison.to_json(tmp_path / "comparison.json")
    assert Comparison.from_json(tmp_path / "comparison.json") == comparison


def test_it_is_not_shown_for_patients_with_several_images():
    comparison = compare([predictions("a"), predictions("b", 0.5)])
    assert all(found.delong is None for row in comparison.rows for found in row.metrics.values())
    assert "DeLong" not in markdown(comparison)

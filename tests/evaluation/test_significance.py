"""How often a difference is claimed falsely, in 20,000 simulated comparisons of methods that are equally good."""

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from mlcak_hf.evaluation.bootstrap import draw_weights, ranking_draws
from mlcak_hf.evaluation.significance import half_width, holm, p_value, share_interval

FALSE_CLAIMS = 0.055


def test_one_kind_of_noise_gives_the_usual_interval():
    assert half_width(0.02, 0.0, 3) == pytest.approx(1.959964 * 0.02, rel=1e-6)
    assert half_width(0.0, 0.03, 3) == pytest.approx(4.302653 * 0.03 / 3**0.5, rel=1e-6)
    assert half_width(0.02, 0.03, 3) == pytest.approx(math.hypot(1.959964 * 0.02, 4.302653 * 0.03 / 3**0.5), rel=1e-6)


def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero():
    assert p_value(0.05, 0.02, 0.0, 3) == pytest.approx(2 * norm.sf(2.5), rel=1e-3)
    assert p_value(0.05, 0.0, 0.03, 3) == pytest.approx(2 * t.sf(0.05 * 3**0.5 / 0.03, 2), rel=1e-3)
    p = p_value(-0.05, 0.02, 0.03, 3)
    assert half_width(0.02, 0.03, 3, p) == pytest.approx(0.05, rel=1e-4)
    assert (p_value(0.0, 0.0, 0.0, 3), p_value(0.0, 0.1, 0.1, 3)) == (1.0, 1.0)
    assert p_value(0.1, 0.0, 0.0, 3) < 1e-9


def test_the_interval_of_a_share_holds_the_shares_that_the_rule_does_not_exclude():
    gains, gaps = np.array([0.02, 0.05, 0.04]), np.array([0.09, 0.13, 0.11])
    covariance = np.array([[1.0e-4, 0.6e-4], [0.6e-4, 2.0e-4]])
    low, high = share_interval(gains.mean(), gaps.mean(), covariance, gains, gaps)
    assert low < gains.mean() / gaps.mean() < high
    for share, inside in ((low + 1e-6, True), (low - 1e-6, False), (high - 1e-6, True), (high + 1e-6, False)):
        spread = math.sqrt(np.array([1, -share]) @ covariance @ np.array([1, -share]))
        width = half_width(spread, np.std(gains - share * gaps, ddof=1), 3)
        assert (abs((gains - share * gaps).mean()) <= width) == inside
    assert share_interval(0.01, 0.02, covariance, gains, gaps) is None, "the gap may be 0"


def test_the_interval_of_a_share_covers_it_in_95_of_100_simulated_studies():
    rng, covered, shown = np.random.default_rng(0), 0, 0
    image = np.array([[1.0e-4, 0.5e-4], [0.5e-4, 1.5e-4]])
    root = np.linalg.cholesky(image)
    for _ in range(4000):
        noise = root @ rng.normal(size=2)
        gains, gaps = noise[:, None] + [[0.03], [0.06]] + 0.01 * rng.normal(size=(2, 3))
        found = share_interval(gains.mean(), gaps.mean(), image, gains, gaps)
        shown += found is not None
        covered += found is not None and found[0] <= 0.5 <= found[1]
    assert shown > 3000
    assert covered / shown > 0.945


def test_holm_is_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@pytest.mark.parametrize("runs", [2, 3, 5])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0])
def test_false_claims_stay_at_five_percent_whatever_the_kind_of_noise(runs, share):
    """20,000 comparisons: `share` of the variance of the mean difference is training noise, the rest is patients."""
    rng = np.random.default_rng(0)
    image, run = math.sqrt(1 - share), math.sqrt(share * runs)
    per_run = image * rng.normal(size=(20_000, 1)) + run * rng.normal(size=(20_000, runs))
    deviations = per_run.std(axis=1, ddof=1)
    widths = [half_width(image, deviation, runs) for deviation in deviations]
    assert np.mean(np.abs(per_run.mean(axis=1)) > widths) <= FALSE_CLAIMS


def table(rng, weights, labels, rows=8, runs=3):
    """AUROC of equally good rows, in the whole set and in every draw: (rows, runs) and (rows, draws)."""
    n = len(labels)
    shared = rng.normal(size=n)  # images that are hard for every row
    values, draws = np.empty((rows, runs)), np.zeros((rows, weights.shape[1] - 1))
    for row in range(rows):
        method = 0.5 * rng.normal(size=n)  # images that are hard for this method
        for run in range(runs):
            skill = 1.2 + 0.1 * rng.normal()  # training noise
            scores = skill * labels + shared + method + 0.3 * rng.normal(size=n)
            found = ranking_draws("auroc", scores, labels, weights)
            values[row, run] = found[0]
            draws[row] += found[1:] / runs
    return values, draws


@pytest.mark.slow
def test_equal_rows_are_rarely_called_different_in_20_000_simulated_comparisons():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60).astype(np.int8)
    # The first column is the whole set, the others are draws of it.
    weights = np.concatenate([np.ones((120, 1), np.int32), draw_weights(range(120), 100)], axis=1)
    alone = tables = claimed = 0
    for number in range(2858):  # times 7 rows beside the plain one: 20,006 comparisons
        if number % 50 == 0:
            weights[:, 1:] = draw_weights(range(120), 100, seed=number)
        values, draws = table(rng, weights, labels)
        p_values = []
        for row in range(1, 8):
            per_run = values[row] - values[0]
            spread = np.std(draws[row] - draws[0], ddof=1)
            p_values.append(p_value(per_run.mean(), spread, per_run.std(ddof=1), 3))
        alone += sum(p <= 0.05 for p in p_values)
        claimed += holm(p_values).min() <= 0.05
        tables += 1
    print(f"false claims: {alone / (7 * tables):.2%} of comparisons, {claimed / tables:.2%} of tables of eight rows")
    assert alone / (7 * tables) <= FALSE_CLAIMS
    assert claimed / tables <= FALSE_CLAIMS

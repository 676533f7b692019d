"""The statistics of tests/benchmarks/fidelity. References: scipy, repeated subnets, values by hand."""

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from tests.benchmarks.fidelity import agreement


def test_tau_and_rho_equal_scipy_also_for_resamples():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 20) / 10, rng.integers(0, 9, 20) / 10  # with ties
    weights = rng.multinomial(20, np.full(20, 1 / 20), 5).astype(float)
    for ours, reference in ((agreement.tau, kendalltau), (agreement.rho, spearmanr)):
        assert ours(a, b)[0] == pytest.approx(reference(a, b).statistic)
        for row, found in zip(weights.astype(int), ours(a, b, weights), strict=True):
            assert found == pytest.approx(reference(np.repeat(a, row), np.repeat(b, row)).statistic)
        assert ours(a, np.ones(20))[0] == 0


def test_agreement_is_the_mean_of_scipys_tau_inside_its_interval():
    a, b = np.random.default_rng(0).permutation(20), np.arange(20)
    found = agreement.agreement(agreement.tau, np.array([a, b]), b)
    assert found.value == pytest.approx((kendalltau(a, b).statistic + 1) / 2)
    assert found.low < found.value < found.high


def test_regret_by_hand():
    truth = np.array([0.9, 0.8, 0.95, 0.7])
    scores = np.array([[1.0, 3.0, 0.0, 2.0], [0.0, 1.0, 5.0, 2.0]])
    assert agreement.regret(scores, truth, 1) == pytest.approx((0.8 - 0.95 + 0.0) / 2)
    assert agreement.regret(scores, truth, 3) == pytest.approx((0.9 - 0.95 + 0.0) / 2)


def test_pairs_with_different_labels_do_not_count_by_hand():
    a, b, like = np.array([1, 2, 9, 8]), np.array([1, 2, 3, 4]), np.array([0, 0, 1, 1])
    assert agreement.tau(a, b)[0] == pytest.approx(4 / 6)
    assert agreement.tau(a, b, like=like)[0] == 0  # one pair per group, in opposite orders


def test_an_interval_includes_the_noise_of_the_seeds():
    """Reference: one seed that ranks well and one at random."""
    truth, rng = np.arange(40.0), np.random.default_rng(0)
    good, bad = truth + rng.normal(size=40), rng.normal(size=40)
    both, one = (agreement.agreement(agreement.tau, np.array(rows), truth) for rows in ([good, bad], [good]))
    assert both.low < 0.2 and both.high > 0.8  # a resample may draw either seed twice
    assert one.high - one.low < 0.2


def test_differences_are_taken_within_a_seed():
    """Reference: the difference of scores to themselves is 0."""
    truth, rng = np.arange(20.0), np.random.default_rng(0)
    rows = rng.permutation(20)[None], truth[None]
    same = agreement.agreement(agreement.tau, np.concatenate(rows), truth, np.concatenate(rows))
    assert (same.value, same.low, same.high) == (0, 0, 0)


def noisy_truth(n: int = 4000, seeds: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return quality [n], labels [n] and trainings [seeds, n]. The labels shift the results by far."""
    rng = np.random.default_rng(0)
    quality, like = rng.normal(size=n), rng.integers(0, 2, n)
    return quality, like, quality + 3 * like + rng.normal(size=(seeds, n))


@pytest.mark.parametrize("trainings", [1, 3])
def test_the_ceiling_equals_scipys_tau_with_the_true_quality(trainings):
    quality, like, trained = noisy_truth(seeds=3)
    expected = kendalltau(quality, trained[:trainings].mean(0) - 3 * like).statistic
    one = np.ones((1, len(like)))
    assert agreement._oracle(trained, like, one, trainings)[0] == pytest.approx(expected, abs=0.02)
    assert agreement._oracle(trained, 0 * like, one, trainings)[0] > expected + 0.1  # pairs of two labels are easy
    assert agreement._oracle(trained, like, one) == agreement._oracle(trained, like, one, 3)


def test_the_ceiling_of_a_resample_is_that_of_repeated_subnets():
    _, like, trained = noisy_truth(30)
    weights = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), 4)
    for row, found in zip(weights, agreement._oracle(trained, like, weights.astype(float)), strict=True):
        repeated = agreement._oracle(np.repeat(trained, row, 1), np.repeat(like, row), np.ones((1, 30)))
        assert found == pytest.approx(repeated[0])


def test_the_ceiling_is_1_without_noise_and_0_without_quality():
    exact = np.tile(np.arange(10.0), (2, 1))
    noise = np.array([np.arange(10.0), -np.arange(10.0)])
    assert agreement.oracle(exact, np.zeros(10)).value == 1
    assert agreement.oracle(noise, np.zeros(10)).value == 0


def test_the_share_of_the_ceiling_is_tau_divided_by_it():
    quality, like, trained = noisy_truth(60)
    scores = quality + np.random.default_rng(1).normal(size=(2, 60))
    found = agreement.share_of_ceiling(scores, trained, like)
    taus = [agreement.tau(row, trained.mean(0), like=like)[0] for row in scores]
    assert found.value == pytest.approx(np.mean(taus) / agreement.oracle(trained, like).value)
    assert found.low < found.value < found.high < 2
    perfect = agreement.share_of_ceiling(trained.mean(0)[None], np.tile(trained.mean(0), (2, 1)), like)
    assert (perfect.value, perfect.low, perfect.high) == pytest.approx((1, 1, 1))


def test_an_interval_over_subnets_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(size=50)
    found = agreement.over_nets(lambda w: w @ values / w.sum(1), 50)
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 50**0.5
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.04)


def test_first_choice_of_every_draw():
    rng = np.random.default_rng(0)
    scores, truth = rng.random(7), rng.random(7)
    for k in (1, 3, 7):
        picks = [truth[max(draw, key=lambda i: scores[i])] for draw in itertools.combinations(range(7), k)]
        assert agreement.first_choice(scores, truth, k) == pytest.approx(np.mean(picks))


def test_random_regret_by_hand():
    truth = np.array([0.9, 0.8, 0.95])
    assert agreement.random_regret(truth, 1) == pytest.approx(truth.mean() - 0.95)
    assert agreement.random_regret(truth, 2) == pytest.approx((0.95 + 0.95 + 0.9) / 3 - 0.95)
    assert agreement.random_regret(truth, 5) == 0

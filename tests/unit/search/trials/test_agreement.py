"""Kendall's tau and its bootstrap interval. References: scipy, and a bootstrap that repeats the drawn networks."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from vitas_ds.search.trials.agreement import RESAMPLES, agreement, tau


def test_tau_of_resamples_equals_scipy_on_repeated_networks():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, 12) / 5, rng.integers(0, 5, 12) / 5  # with ties
    weights = rng.multinomial(12, np.full(12, 1 / 12), 6)
    for row, found in zip(weights, tau(a, b, weights.astype(float)), strict=True):
        assert found == pytest.approx(kendalltau(np.repeat(a, row), np.repeat(b, row)).statistic)


def test_the_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=15)
    scores = truth + rng.normal(size=15)
    drawn = rng.integers(0, 15, (RESAMPLES, 15))
    plain = np.percentile([kendalltau(scores[i], truth[i]).statistic for i in drawn], [2.5, 97.5])
    found = agreement(tau, scores[None], truth)
    assert found.value == pytest.approx(kendalltau(scores, truth).statistic)
    assert [found.low, found.high] == pytest.approx(plain, abs=0.06)

"""Agreement of scores with the truth: Kendall's tau, Spearman's rho, bootstrap intervals, and regret.

Intervals come from resampling subnets and seeds with replacement: they estimate the results of other subnets and other
trainings of the supernets. A resample is a row of weights, the number of times each subnet was drawn. A thousand
resamples then take a few matrix products.
"""
# n nets, R supernets or seeds, K resamples

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Maps a [n], b [n] and weights [K, n] to [K]."""


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % bootstrap interval over subnets and seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (round(x, 2) + 0.0 for x in (self.value, self.low, self.high))  # no -0.00
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def tau(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None, like: np.ndarray | None = None) -> np.ndarray:
    """Return Kendall's tau-b [K], which handles ties; 0 where one side has a single value.

    Args:
        a: [n].
        b: [n].
        weights: [K, n] of resamples.
        like: [n] labels; only pairs with equal labels count.
    """
    a_nn, b_nn = (np.sign(x[:, None] - x).astype(float) for x in (a, b))
    if like is not None:
        a_nn, b_nn = (x_nn * (like[:, None] == like) for x_nn in (a_nn, b_nn))
    w_Kn = np.ones((1, len(a))) if weights is None else weights
    concord, pairs_a, pairs_b = (_form(w_Kn, m) for m in (a_nn * b_nn, abs(a_nn), abs(b_nn)))
    return _ratio(concord, np.sqrt(pairs_a * pairs_b))


def rho(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return Spearman's rank correlation [K] with mean ranks for ties; 0 where one side has a single value."""
    w_Kn = np.ones((1, len(a))) if weights is None else weights
    ranks = []
    for x in (a, b):
        below_nn = (x < x[:, None]) + 0.5 * (x == x[:, None])
        rank_Kn = w_Kn @ below_nn.T
        ranks.append(rank_Kn - (w_Kn * rank_Kn).sum(1, keepdims=True) / w_Kn.sum(1, keepdims=True))
    products = [(w_Kn * x * y).sum(1) for x, y in ((ranks[0], ranks[1]), (ranks[0], ranks[0]), (ranks[1], ranks[1]))]
    return _ratio(products[0], np.sqrt(products[1] * products[2]))


def _form(w_Kn: np.ndarray, m_nn: np.ndarray) -> np.ndarray:
    """Return the quadratic form w m w of each resample, [K]."""
    return ((w_Kn @ m_nn) * w_Kn).sum(1)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def agreement(measure: Measure, scores: np.ndarray, truth: np.ndarray, less: np.ndarray | None = None) -> Estimate:
    """Return the mean over R rows of a measure of ``scores [R, n]`` with ``truth [n]``.

    With ``less [R, n]``, return the difference to the measure of these scores, on the same resamples and row by row.
    """
    (seeds, n), rng = scores.shape, np.random.default_rng(0)
    drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    weights = np.concatenate([np.ones((1, n)), drawn])
    found_RK = np.array([measure(row, truth, weights) for row in scores])
    if less is not None:
        found_RK -= np.array([measure(row, truth, weights) for row in less])
    again_RK = rng.integers(0, seeds, (seeds, RESAMPLES))
    return _estimate(found_RK[:, 0].mean(), np.take_along_axis(found_RK[:, 1:], again_RK, 0).mean(0))


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def oracle(truth_Rn: np.ndarray, like: np.ndarray) -> Estimate:
    """Return the tau that the true quality of each subnet would reach with the mean of R trainings, in a normal model.

    The correlation of the mean with the true quality is r = sqrt(reliability of the mean). Two normal variables with
    that correlation have tau = 2 / pi asin(r).

    Args:
        truth_Rn: Results of R trainings of n subnets.
        like: [n] labels; only differences between subnets with equal labels count.
    """
    rng, n = np.random.default_rng(0), len(like)
    drawn = [rng.integers(0, n, n) for _ in range(RESAMPLES)]
    return _estimate(_oracle(truth_Rn, like), np.array([_oracle(truth_Rn[:, at], like[at]) for at in drawn]))


def _oracle(truth_Rn: np.ndarray, like: np.ndarray) -> float:
    seeds, freedom = len(truth_Rn), len(like) - len(np.unique(like))
    worth_Rn = truth_Rn.copy()
    for label in np.unique(like):
        worth_Rn[:, like == label] -= worth_Rn[:, like == label].mean(1, keepdims=True)
    mean_n = worth_Rn.mean(0)
    noise = ((worth_Rn - mean_n) ** 2).sum() / (freedom * (seeds - 1))
    reliability = 1 - noise / seeds / max((mean_n**2).sum() / freedom, 1e-12)
    return 2 / math.pi * math.asin(max(reliability, 0.0) ** 0.5)


def regret(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Return the loss of taking the best of the ``k`` top-scored subnets instead of the best one, mean of R rows.

    It is at most 0. Ties are broken by the order of the subnets, as a search breaks them by the order of candidates.
    """
    picks = [truth[np.argsort(-row, kind="stable")[:k]].max() for row in scores]
    return float(np.mean(picks) - truth.max())


def random_regret(truth: np.ndarray, k: int) -> float:
    """Return the mean loss of drawing the ``k`` subnets at random."""
    n, k = len(truth), min(k, len(truth))
    best_probs = [math.comb(below, k - 1) / math.comb(n, k) for below in range(n)]  # of being the best of the draw
    return float(np.sort(truth) @ best_probs - truth.max())

"""How well scores rank nets: Kendall's tau and Spearman's rho with bootstrap intervals, and what a pick costs.

An interval is of nets and seeds drawn anew: what other nets and other trainings of the supernets would have given.
A resample of nets is a row of weights, how often each net was drawn, so that a thousand of them are a few products.
"""
# n nets, R supernets or seeds, K resamples

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Of a [n], b [n] and weights [K, n]: [K]."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, of nets and seeds drawn anew with replacement."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = (round(x, 2) + 0.0 for x in (self.value, self.low, self.high))  # no -0.00
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def tau(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None, like: np.ndarray | None = None) -> np.ndarray:
    """Kendall's tau-b, which allows for ties, [K]; 0 where one side has a single value.

    ``like [n]``: only pairs of nets that are alike in it count.
    """
    a_nn, b_nn = (np.sign(x[:, None] - x).astype(float) for x in (a, b))
    if like is not None:
        a_nn, b_nn = (x_nn * (like[:, None] == like) for x_nn in (a_nn, b_nn))
    w_Kn = np.ones((1, len(a))) if weights is None else weights
    concord, pairs_a, pairs_b = (_form(w_Kn, m) for m in (a_nn * b_nn, abs(a_nn), abs(b_nn)))
    return _ratio(concord, np.sqrt(pairs_a * pairs_b))


def rho(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rank correlation, ties at their mean rank, [K]; 0 where one side has a single value."""
    w_Kn = np.ones((1, len(a))) if weights is None else weights
    ranks = []
    for x in (a, b):
        below_nn = (x < x[:, None]) + 0.5 * (x == x[:, None])
        rank_Kn = w_Kn @ below_nn.T
        ranks.append(rank_Kn - (w_Kn * rank_Kn).sum(1, keepdims=True) / w_Kn.sum(1, keepdims=True))
    products = [(w_Kn * x * y).sum(1) for x, y in ((ranks[0], ranks[1]), (ranks[0], ranks[0]), (ranks[1], ranks[1]))]
    return _ratio(products[0], np.sqrt(products[1] * products[2]))


def _form(w_Kn: np.ndarray, m_nn: np.ndarray) -> np.ndarray:
    """[K] w m w."""
    return ((w_Kn @ m_nn) * w_Kn).sum(1)


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def agreement(measure: Measure, scores: np.ndarray, truth: np.ndarray, less: np.ndarray | None = None) -> Estimate:
    """The mean over R rows of ``scores [R, n]`` of a measure with ``truth [n]``.

    ``less [R, n]``: how much more it is than that of other scores, on the same resamples; rows of the same seed meet.
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
    """The tau with the mean of R trainings of scores that know what each net is worth, under a normal model.

    The mean's correlation with the worth is r = sqrt(its reliability), and two normal variables of that correlation
    have tau = 2 / pi asin(r). ``like [n]``: only differences between nets that are alike in it count.
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
    """What is lost when the best of the ``k`` nets of highest score is taken instead of the best, mean of R rows.

    At most 0. Ties are broken by the order of the nets, as a search breaks them by the order of its candidates.
    """
    picks = [truth[np.argsort(-row, kind="stable")[:k]].max() for row in scores]
    return float(np.mean(picks) - truth.max())


def random_regret(truth: np.ndarray, k: int) -> float:
    """What is lost on average when the ``k`` nets are drawn blindly."""
    n, k = len(truth), min(k, len(truth))
    chances = [math.comb(below, k - 1) / math.comb(n, k) for below in range(n)]  # that this one is the best drawn
    return float(np.sort(truth) @ chances - truth.max())

"""How well scores rank nets: Kendall's tau and Spearman's rho with bootstrap intervals, and what a pick costs.

A resample of nets is a row of weights, how often each net was drawn, so that a thousand of them are a few products.
"""
# n nets, R supernets or seeds, K resamples

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Of a [n], b [n] and weights [K, n]: [K]."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, of nets drawn anew with replacement."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def tau(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Kendall's tau-b, which allows for ties, [K]; 0 where one side has a single value."""
    a_nn, b_nn = (np.sign(x[:, None] - x).astype(float) for x in (a, b))
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

    ``less [R, n]``: how much more it is than that of other scores, on the same resamples.
    """
    n = len(truth)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    weights = np.concatenate([np.ones((1, n)), drawn])
    found = np.mean([measure(row, truth, weights) for row in scores], 0)
    if less is not None:
        found -= np.mean([measure(row, truth, weights) for row in less], 0)
    low, high = np.percentile(found[1:], [2.5, 97.5])
    return Estimate(float(found[0]), float(low), float(high))


def regret(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """What is lost when the best of the ``k`` nets of highest score is taken instead of the best, mean of R rows.

    At most 0. Ties are broken by the order of the nets, as a search breaks them by the order of its candidates.
    """
    picks = [truth[np.argsort(-row, kind="stable")[:k]].max() for row in scores]
    return float(np.mean(picks) - truth.max())

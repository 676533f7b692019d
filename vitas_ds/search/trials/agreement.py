"""Agreement of scores with the truth: Kendall's tau with bootstrap intervals.

Intervals come from resampling subnets and seeds with replacement: they estimate the results of other subnets and other
trainings of the supernets. A resample is a row of weights, the number of times each subnet was drawn. A thousand
resamples then take a few matrix products.
"""
# n nets, R supernets or seeds, K resamples

from __future__ import annotations

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
    return _tau_of_signs(a_nn, b_nn, w_Kn)


def _tau_of_signs(a_nn: np.ndarray, b_nn: np.ndarray, w_Kn: np.ndarray) -> np.ndarray:
    concord, pairs_a, pairs_b = (_form(w_Kn, m) for m in (a_nn * b_nn, abs(a_nn), abs(b_nn)))
    return ratio(concord, np.sqrt(pairs_a * pairs_b))


def estimate_of_signs(a_nn: np.ndarray, b_nn: np.ndarray) -> Estimate:
    """Return Kendall's tau-b of the signs of all differences [n, n], 0 for pairs that do not count, with its interval.

    It is ``tau`` for comparisons that no single score per subnet explains.
    """
    found_K = _tau_of_signs(a_nn, b_nn, resampled(len(a_nn), np.random.default_rng(0)))
    return estimate(found_K[0], found_K[1:])


def _form(w_Kn: np.ndarray, m_nn: np.ndarray) -> np.ndarray:
    """Return the quadratic form w m w of each resample, [K]."""
    return ((w_Kn @ m_nn) * w_Kn).sum(1)


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, and 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def agreement(measure: Measure, scores: np.ndarray, truth: np.ndarray, less: np.ndarray | None = None) -> Estimate:
    """Return the mean over R rows of a measure of ``scores [R, n]`` with ``truth [n]``.

    With ``less [R, n]``, return the difference to the measure of these scores, on the same resamples and row by row.
    """
    (seeds, n), rng = scores.shape, np.random.default_rng(0)
    weights = resampled(n, rng)
    found_RK = np.array([measure(row, truth, weights) for row in scores])
    if less is not None:
        found_RK -= np.array([measure(row, truth, weights) for row in less])
    again_RK = rng.integers(0, seeds, (seeds, RESAMPLES))
    return estimate(found_RK[:, 0].mean(), np.take_along_axis(found_RK[:, 1:], again_RK, 0).mean(0))


def resampled(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the weights [1 + RESAMPLES, n] of the subnets themselves and of their resamples."""
    drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    return np.concatenate([np.ones((1, n)), drawn])


def estimate(value: float, resampled: np.ndarray) -> Estimate:
    """Return a value with the interval of its resampled values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))

"""Agreement of scores with the truth: Spearman's rho, the ceiling of a perfect predictor, and regret.

``vitas_ds.search.trials.agreement`` has Kendall's tau and the bootstrap intervals.
"""
# n nets, R supernets or seeds, K resamples

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from vitas_ds.search.trials.agreement import RESAMPLES, Estimate, agreement, estimate, ratio, resampled, tau

__all__ = [
    "RESAMPLES", "Estimate", "agreement", "estimate", "first_choice", "oracle", "over_nets", "random_regret", "ratio",
    "regret", "rho", "share_of_ceiling", "tau",
]  # fmt: skip


def rho(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return Spearman's rank correlation [K] with mean ranks for ties; 0 where one side has a single value."""
    w_Kn = np.ones((1, len(a))) if weights is None else weights
    ranks = []
    for x in (a, b):
        below_nn = (x < x[:, None]) + 0.5 * (x == x[:, None])
        rank_Kn = w_Kn @ below_nn.T
        ranks.append(rank_Kn - (w_Kn * rank_Kn).sum(1, keepdims=True) / w_Kn.sum(1, keepdims=True))
    products = [(w_Kn * x * y).sum(1) for x, y in ((ranks[0], ranks[1]), (ranks[0], ranks[0]), (ranks[1], ranks[1]))]
    return ratio(products[0], np.sqrt(products[1] * products[2]))


def over_nets(statistic: Callable[[np.ndarray], np.ndarray], n: int) -> Estimate:
    """Return a statistic of n subnets with its interval over other subnets. It maps weights [K, n] to [K]."""
    found_K = statistic(resampled(n, np.random.default_rng(0)))
    return estimate(found_K[0], found_K[1:])


def oracle(truth_Rn: np.ndarray, like: np.ndarray, trainings: int | None = None) -> Estimate:
    """Return the tau that the true quality of each subnet would reach with the mean of some trainings.

    The model is normal: the quality differs between subnets, and each training adds noise of one variance. The
    correlation of the mean with the quality is r = sqrt(reliability of the mean). Two normal variables with that
    correlation have tau = 2 / pi asin(r).

    Args:
        truth_Rn: Results of R trainings of n subnets.
        like: [n] labels; only differences between subnets with equal labels count.
        trainings: Number of trainings in the mean; None: R.
    """
    return over_nets(lambda w_Kn: _oracle(truth_Rn, like, w_Kn, trainings), len(like))


def _oracle(truth_Rn: np.ndarray, like: np.ndarray, w_Kn: np.ndarray, trainings: int | None = None) -> np.ndarray:
    """Return the ceiling [K] of each resample."""
    seeds, (K, n) = len(truth_Rn), w_Kn.shape
    mean_n, square_K, labels_K = truth_Rn.mean(0), np.zeros(K), np.zeros(K)
    for label in np.unique(like):
        w, x = w_Kn[:, like == label], mean_n[like == label]
        count, first = w.sum(1), w @ x
        square_K += w @ x**2 - ratio(first**2, count)
        labels_K += count > 0
    freedom_K = np.maximum(n - labels_K, 1)
    noise_K = w_Kn @ truth_Rn.var(0, ddof=1) / n
    quality_K = np.maximum(square_K / freedom_K - noise_K / seeds, 0)
    reliability_K = ratio(quality_K, quality_K + noise_K / (trainings or seeds))
    return 2 / math.pi * np.arcsin(np.sqrt(reliability_K))


def share_of_ceiling(scores: np.ndarray, truth_Rn: np.ndarray, like: np.ndarray) -> Estimate:
    """Return tau of ``scores [S, n]`` with the mean of ``truth_Rn``, divided by that of a perfect predictor.

    Both are computed on the same resamples of subnets; S, the seeds of the supernet, are resampled too.
    """
    (seeds, n), rng = scores.shape, np.random.default_rng(0)
    w_Kn = resampled(n, rng)
    found_SK = np.array([tau(row, truth_Rn.mean(0), w_Kn, like) for row in scores])
    again_SK = rng.integers(0, seeds, (seeds, RESAMPLES))
    mean_K = np.append(found_SK[:, 0].mean(), np.take_along_axis(found_SK[:, 1:], again_SK, 0).mean(0))
    share_K = ratio(mean_K, _oracle(truth_Rn, like, w_Kn))
    return estimate(share_K[0], share_K[1:])


def regret(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Return the loss of taking the best of the ``k`` top-scored subnets instead of the best one, mean of R rows.

    It is at most 0. Ties are broken by the order of the subnets, as a search breaks them by the order of candidates.
    """
    picks = [truth[np.argsort(-row, kind="stable")[:k]].max() for row in scores]
    return float(np.mean(picks) - truth.max())


def first_choice(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Return the mean truth of the top-scored one of ``k`` subnets that are drawn at random."""
    n = len(truth)
    top_probs = [math.comb(below, k - 1) / math.comb(n, k) for below in range(n)]  # of being the top of the draw
    return float(truth[np.argsort(scores, kind="stable")] @ top_probs)


def random_regret(truth: np.ndarray, k: int) -> float:
    """Return the mean loss of drawing the ``k`` subnets at random."""
    return first_choice(truth, truth, min(k, len(truth))) - float(truth.max())

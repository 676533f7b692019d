"""Agreement of scores with the truth: Spearman's rho, the ceiling of a perfect predictor, and regret.

``vitas_ds.search.agreement`` has Kendall's tau and the bootstrap intervals.
"""
# n nets, R supernets or seeds, K resamples

from __future__ import annotations

import math

import numpy as np

from vitas_ds.search.agreement import RESAMPLES, Estimate, agreement, estimate, ratio, tau

__all__ = ["RESAMPLES", "Estimate", "agreement", "estimate", "oracle", "random_regret", "ratio", "regret", "rho", "tau"]


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
    return estimate(_oracle(truth_Rn, like), np.array([_oracle(truth_Rn[:, at], like[at]) for at in drawn]))


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

"""A regressor on the scores so far, which proposes candidates where it has shown that it can rank nets.

Ridge regression on what a genome says: each gene's choice, the share of each choice among the layers, and the costs.
"""
# K nets, G genes, P features, A strengths

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.search.feasible import budget as budgets

FOLDS = 5
LEAST = 20  # nets, below which nothing is fitted
STRENGTHS = 10.0 ** np.arange(-1, 5)  # of the penalty


@dataclass(frozen=True)
class Ridge:
    """``mean + (features - centre) @ weights``."""

    centre: np.ndarray  # [P]
    weights: np.ndarray  # [P]
    mean: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return self.mean + (features - self.centre) @ self.weights


def features(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """[K, P] of canonical genomes; no feature is larger than a few units."""
    sizes = space.gene_sizes
    chosen = [(genomes[:, [g]] == np.arange(size)).astype(float) for g, size in enumerate(sizes)]
    table = genome.columns(space, genomes)
    depth = np.maximum((table.heads > 0).sum(1, keepdims=True), 1)
    choices = ((table.heads, space.num_heads), (table.qkv, space.qkv_widths), (table.mlp, space.mlp_widths))
    shares = [(widths[..., None] == np.array(allowed)).sum(1) / depth for widths, allowed in choices]
    costs = np.stack([np.log(np.maximum(value, 1)) for value in budgets.prices(space, genomes).values()], 1)
    return np.concatenate([*chosen, *shares, depth / space.depth, costs], 1)


def ridge(known: np.ndarray, scores: np.ndarray) -> Ridge:
    """The fit whose strength of the penalty has the least leave-one-out error."""
    centre, mean = known.mean(0), float(scores.mean())
    U, s, Vt = np.linalg.svd(known - centre, full_matrices=False)
    kept = s > 1e-9 * max(s[0], 1e-9)
    U, s, Vt = U[:, kept], s[kept], Vt[kept]
    target = scores - mean
    errors = []
    for strength in STRENGTHS:
        shrunk = U * (s**2 / (s**2 + strength))
        left_out = (target - shrunk @ (U.T @ target)) / (1 - 1 / len(scores) - (shrunk * U).sum(1))
        errors.append((left_out**2).mean())
    strength = STRENGTHS[int(np.argmin(errors))]
    return Ridge(centre, Vt.T @ (s / (s**2 + strength) * (U.T @ target)), mean)


def fit(space: SearchSpace, genomes: np.ndarray, scores: np.ndarray, seed: int) -> tuple[Ridge | None, float]:
    """The regressor of some scored nets, and its rank correlation on nets held out of it (five folds); 0: too few."""
    if len(scores) < LEAST or np.ptp(scores) == 0:
        return None, 0.0
    known, told = features(space, genomes), np.zeros(len(scores))
    fold = np.random.default_rng([seed, 0x51]).permutation(len(scores)) % FOLDS
    for i in range(FOLDS):
        told[fold == i] = ridge(known[fold != i], scores[fold != i])(known[fold == i])
    correlation = float(spearmanr(told, scores).statistic) if np.ptp(told) else 0.0
    return ridge(known, scores), correlation

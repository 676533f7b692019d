"""Predict scores from genomes, to propose candidates. Used only while it ranks held-out candidates well.

The model is a ridge regression. Its features are the choice of each gene, the share of each choice among the layers,
and the costs.
"""
# K genomes, G genes, P features, F objectives (lower is better)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.distributed.comm import from_main
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ridge import Ridge, fit_ridge
from vitas_ds.search.scoring.candidate import Candidate

FOLDS = 5  # of the cross-validation
MIN_SAMPLES = 20  # no fit with fewer scores


@dataclass(frozen=True)
class Surrogate:
    """Predicts objective values from genomes. All ranks call it with the same genomes."""

    problem: SearchProblem
    model: Ridge

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        """Predict the objective values [K, F] of canonical genomes [K, G]."""
        problem = self.problem
        # Rank 0 predicts: rounding may differ between nodes, but all ranks must propose the same candidates.
        scores = from_main(lambda: self.model(genome_features(problem.space, genomes)))
        costs = budgets.compute_costs(problem.space, genomes, problem.objectives, problem.costs)
        return np.stack([-scores, *(value.astype(float) for value in costs.values())], 1)


def fit_surrogate(problem: SearchProblem, candidates: list[Candidate]) -> tuple[Surrogate | None, float]:
    """Fit a surrogate to all candidates so far; see ``fit_model``. Rank 0 fits, and all ranks get its model."""
    genomes = np.array([c.genome for c in candidates], np.int64)
    scores = np.array([c.final_value for c in candidates])
    model, correlation = from_main(lambda: fit_model(problem.space, genomes, scores, problem.seed))
    return (None if model is None else Surrogate(problem, model)), correlation


def genome_features(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """Return the features of canonical genomes, [K, P]. All features are of order one."""
    sizes = space.gene_sizes
    chosen = [(genomes[:, [g]] == np.arange(size)).astype(float) for g, size in enumerate(sizes)]
    table = genome.width_table(space, genomes)
    depth = np.maximum((table.num_heads > 0).sum(1, keepdims=True), 1)
    choices = ((table.num_heads, space.num_heads), (table.qkv_dim, space.qkv_widths), (table.mlp_dim, space.mlp_widths))
    shares = [(widths[..., None] == np.array(allowed)).sum(1) / depth for widths, allowed in choices]
    costs = np.stack([np.log(np.maximum(value, 1)) for value in budgets.compute_costs(space, genomes).values()], 1)
    return np.concatenate([*chosen, *shares, depth / space.depth, costs], 1)


def fit_model(space: SearchSpace, genomes: np.ndarray, scores: np.ndarray, seed: int) -> tuple[Ridge | None, float]:
    """Fit a ridge regression to scored genomes [K, G].

    Returns:
        The model and its rank correlation (Spearman) in a five-fold cross-validation; None and 0 if there are too few
        scores or all are equal.
    """
    from scipy.stats import spearmanr  # slow to import, and seldom needed

    if len(scores) < MIN_SAMPLES or np.ptp(scores) == 0:
        return None, 0.0
    features, predicted = genome_features(space, genomes), np.zeros(len(scores))
    fold = np.random.default_rng([seed, 0x51]).permutation(len(scores)) % FOLDS
    for i in range(FOLDS):
        predicted[fold == i] = fit_ridge(features[fold != i], scores[fold != i])(features[fold == i])
    correlation = float(spearmanr(predicted, scores).statistic) if np.ptp(predicted) else 0.0
    return fit_ridge(features, scores), correlation

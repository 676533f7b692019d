"""Predict latency as a sum over layers, with coefficients fitted to a few dozen measured networks."""
# K networks, L positions, P features, N tokens, n patches, D embed_dim, a = qkv_dim / 3, k depth
# A, M, H sums over the layers of q width, mlp_dim and num_heads (feasible/table.py)

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.search.feasible.budget import PS_PER_SECOND
from vitas_ds.search.latency.limits import MIN_NETWORKS

STEM_FEATURES = 3


def stem_features(table: WidthTable) -> np.ndarray:
    """Return the features outside the layers [K, 3]: a constant, patch embedding, classifier."""
    n = (table.image_size // table.patch_size) ** 2
    patch_embed = 3 * n * table.patch_size**2 * table.embed_dim
    return np.stack([np.ones(len(n)), patch_embed, table.embed_dim * table.num_classes], 1).astype(float)


def layer_features(table: WidthTable) -> np.ndarray:
    """Return the features of each layer [K, L, 7]: a constant, matrix products, softmax, element-wise operations."""
    N = (table.image_size // table.patch_size)[:, None] ** 2 + 1
    D, a = table.embed_dim[:, None], table.qkv_dim // 3
    features = [np.ones_like(a), N * D * (table.qkv_dim + a), 2 * N * D * table.mlp_dim, 2 * N * N * a]
    features += [table.num_heads * N * N, N * D * np.ones_like(a), N * (table.qkv_dim + table.mlp_dim)]
    return np.stack(features, 2) * (table.num_heads > 0)[..., None].astype(float)


@dataclass(frozen=True)
class LatencyPredictor:
    """Latency as a non-negative linear function of the features of stem and layers.

    ``error`` (mean relative error) and ``correlation`` (rank correlation) are those of held-out networks.
    """

    coefficients: np.ndarray  # [P] seconds per unit of each feature
    error: float
    correlation: float

    def layer_seconds(self, table: WidthTable) -> np.ndarray:
        """Predict the seconds of each position [K, L], 0 at an identity."""
        return layer_features(table) @ self.coefficients[STEM_FEATURES:]

    def __call__(self, table: WidthTable) -> np.ndarray:
        """Predict the seconds of whole networks [K]."""
        return stem_features(table) @ self.coefficients[:STEM_FEATURES] + self.layer_seconds(table).sum(1)

    def picoseconds(self, table: WidthTable) -> np.ndarray:
        """Predict the latency as a cost of a budget, int64 [K].

        The coefficients of k, A, M and H are rounded to integers: only then is the feasible set exact.
        """

        def seconds(num_heads: int, qkv_dim: int, mlp_dim: int) -> np.ndarray:
            layer = [np.full((len(table.patch_size), 1), value) for value in (num_heads, qkv_dim, mlp_dim)]
            return self(replace(table, num_heads=layer[0], qkv_dim=layer[1], mlp_dim=layer[2]))

        stem, one_head = seconds(0, 0, 0), seconds(1, 0, 0)
        per_head = seconds(2, 0, 0) - one_head
        per_width = seconds(1, 3, 0) - one_head, seconds(1, 0, 1) - one_head
        parts = stem, one_head - stem - per_head, per_head, *per_width
        base, layer, head, attn, mlp = (np.rint(part * PS_PER_SECOND).astype(np.int64) for part in parts)
        # at least 1 ps: the feasible set divides by the coefficient of M
        widths = attn * (table.qkv_dim.sum(1) // 3) + np.maximum(mlp, 1) * table.mlp_dim.sum(1)
        return base + layer * (table.num_heads > 0).sum(1) + head * table.num_heads.sum(1) + widths


def fit_predictor(
    specs: list[SubnetSpec], seconds: np.ndarray, seed: int = 0, held_out: float = 0.25
) -> LatencyPredictor:
    """Fit the coefficients by non-negative least squares on the relative errors.

    Args:
        specs: The measured networks.
        seconds: Their latencies [K].
        seed: Seed of the split.
        held_out: Fraction of the networks that measures the error instead of fitting.

    Raises:
        UserError: There are fewer than 12 networks.
    """
    from scipy.optimize import nnls  # slow to import, and seldom needed
    from scipy.stats import spearmanr

    if len(specs) < MIN_NETWORKS:
        raise UserError(f"a latency predictor needs at least {MIN_NETWORKS} measured networks (given: {len(specs)})")
    table, seconds = WidthTable.from_specs(specs), np.asarray(seconds, float)
    features = np.concatenate([stem_features(table), layer_features(table).sum(1)], 1)
    order = np.random.default_rng(seed).permutation(len(specs))
    test, train = np.split(order, [max(round(held_out * len(specs)), 3)])
    scale = features[train].max(0)
    relative = features[train] / scale / seconds[train, None]
    coefficients = nnls(relative, np.ones(len(train)))[0] / scale
    predicted = features[test] @ coefficients
    error = float((abs(predicted - seconds[test]) / seconds[test]).mean())
    varies = np.ptp(predicted) > 0 and np.ptp(seconds[test]) > 0  # else there is no order to compare
    correlation = float(spearmanr(predicted, seconds[test]).statistic) if varies else 0.0
    return LatencyPredictor(coefficients, error, correlation)

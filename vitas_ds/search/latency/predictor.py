"""Predict latency as a sum over layers, fitted to a few dozen measured nets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from vitas_ds.arch.space import Columns, columns_of
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.search.feasible.budget import PICO


def stem_quantities(table: Columns) -> np.ndarray:
    """[K, 3] what is priced outside the layers: the net itself, patch embedding, classifier."""
    n = (table.image_size // table.patch) ** 2
    embedding = 3 * n * table.patch**2 * table.embed
    return np.stack([np.ones(len(n)), embedding, table.embed * table.num_classes], 1).astype(float)


def layer_quantities(table: Columns) -> np.ndarray:
    """[K, L, 7] what is priced of each layer: itself, its matrix products, softmax, and element-wise work."""
    N = (table.image_size // table.patch)[:, None] ** 2 + 1
    D, a = table.embed[:, None], table.qkv // 3
    parts = [np.ones_like(a), N * D * (table.qkv + a), 2 * N * D * table.mlp, 2 * N * N * a]
    parts += [table.heads * N * N, N * D * np.ones_like(a), N * (table.qkv + table.mlp)]
    return np.stack(parts, 2) * (table.heads > 0)[..., None].astype(float)


@dataclass(frozen=True)
class Predictor:
    """Latency as a sum over layers. ``error`` (mean relative) and ``correlation`` (of ranks) are on held-out nets."""

    prices: np.ndarray  # [P] seconds of a unit of each quantity
    error: float
    correlation: float

    def layers(self, table: Columns) -> np.ndarray:
        """[K, L] seconds of each position, 0 at an identity."""
        return layer_quantities(table) @ self.prices[3:]

    def __call__(self, table: Columns) -> np.ndarray:
        """[K] seconds of whole nets."""
        return stem_quantities(table) @ self.prices[:3] + self.layers(table).sum(1)

    def picoseconds(self, table: Columns) -> np.ndarray:
        """int64 [K]: the same as a cost of a budget, made of whole prices, so that the feasible nets are exact."""

        def seconds(heads: int, qkv: int, mlp: int) -> np.ndarray:
            columns = [np.full((len(table.patch), 1), value) for value in (heads, qkv, mlp)]
            return self(replace(table, heads=columns[0], qkv=columns[1], mlp=columns[2]))

        stem, one = seconds(0, 0, 0), seconds(1, 0, 0)
        head = seconds(2, 0, 0) - one
        parts = stem, one - stem - head, head, seconds(1, 3, 0) - one, seconds(1, 0, 1) - one
        base, layer, head, attn, mlp = (np.rint(part * PICO).astype(np.int64) for part in parts)
        widths = attn * (table.qkv.sum(1) // 3) + np.maximum(mlp, 1) * table.mlp.sum(1)
        return base + layer * (table.heads > 0).sum(1) + head * table.heads.sum(1) + widths


def fit(specs: list[SubnetSpec], seconds: np.ndarray, seed: int = 0, held_out: float = 0.25) -> Predictor:
    """The non-negative prices with the least relative error on most of the nets; the rest tells how good they are.

    Raises:
        UserError: fewer than 12 nets.
    """
    if len(specs) < 12:
        raise UserError(f"a latency predictor needs 12 measured nets or more (given: {len(specs)})")
    table, seconds = columns_of(specs), np.asarray(seconds, float)
    known = np.concatenate([stem_quantities(table), layer_quantities(table).sum(1)], 1)
    order = np.random.default_rng(seed).permutation(len(specs))
    test, train = np.split(order, [max(round(held_out * len(specs)), 3)])
    scale = known[train].max(0)
    relative = known[train] / scale / seconds[train, None]
    prices = nnls(relative, np.ones(len(train)))[0] / scale
    told = known[test] @ prices
    error = float((abs(told - seconds[test]) / seconds[test]).mean())
    return Predictor(prices, error, float(spearmanr(told, seconds[test]).statistic))

"""All nets of a space that meet a budget, known exactly without listing them. No torch.

Given the stem (patch, embedding) and the depth k, every cost is affine in A, the sum of the layers' q widths, in M,
the sum of their MLP widths, and (activations and latency alone) in H, the sum of their heads. So the nets inside the
budget are a table of rows (stem, k, A, H), each with one interval of M: some ten thousand rows for 1e43 nets. It tells
at once whether the budget can be met, by how many nets, which net comes nearest, and how to build a random one that
is inside. Where no bounded cost depends on heads, H is left open, as 0.
"""
# R rows, K nets, S stems

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import Columns, SearchSpace
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import COSTS, Budget, Costs
from vitas_ds.search.feasible.width_sums import WidthSums, width_sums

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Stem, depth, A, H, each [R]."""


@dataclass(frozen=True)
class Affine:
    """Each stem's cost as ``base + layer * k + attn * A + heads * H + mlp * M``, in arrays [S]."""

    base: np.ndarray
    layer: np.ndarray
    attn: np.ndarray
    heads: np.ndarray
    mlp: np.ndarray

    def at(self, rows: Rows, mlp: np.ndarray | int) -> np.ndarray:
        """The cost of nets of these rows with those sums of MLP widths."""
        stem, depth, attn, heads = rows
        layers = self.layer[stem] * depth + self.attn[stem] * attn + self.heads[stem] * heads + self.mlp[stem] * mlp
        return self.base[stem] + layers


def affine(space: SearchSpace, cost: Callable[[Columns], np.ndarray]) -> Affine:
    """The coefficients of a cost, read off it at nets of one layer."""
    patch = np.repeat(space.patch_sizes, len(space.embed_widths))
    embed = np.tile(space.embed_widths, len(space.patch_sizes))

    def probe(heads: int, qkv: int, mlp: int) -> np.ndarray:
        column = (np.full((len(patch), 1), value) for value in (heads, qkv, mlp))
        return cost(Columns(space.image_size, space.num_classes, patch, embed, *column))

    base, layer = probe(0, 0, 0), probe(1, 0, 0)
    heads = probe(2, 0, 0) - layer
    return Affine(base, layer - base - heads, probe(1, 3, 0) - layer, heads, probe(1, 0, 1) - layer)


@dataclass(frozen=True)
class Feasible:
    """The nets inside a budget. Row r: stem, depth, A, H, and the MLP sums ``mlp.sums(depth)[start:stop]``."""

    space: SearchSpace
    budget: Budget
    costs: dict[str, Affine]  # all of them, bounded or not
    attn: WidthSums
    heads: WidthSums
    mlp: WidthSums
    stem: np.ndarray  # [R] patch index x embeddings + embedding index
    depth: np.ndarray  # [R]
    total: np.ndarray  # [R] A
    head_total: np.ndarray  # [R] H; 0: any heads
    start: np.ndarray  # [R]
    stop: np.ndarray  # [R]

    def size(self) -> float:
        """How many distinct nets are inside."""
        any_heads, total = float(len(self.space.num_heads)), 0.0
        for k in np.unique(self.depth).tolist():
            at = self.depth == k
            below = np.concatenate([[0.0], self.mlp.count(k).cumsum()])
            nets = self.attn.ways[k, self.total[at] // self.attn.unit] * (below[self.stop[at]] - below[self.start[at]])
            heads = self.heads.ways[k, self.head_total[at] // self.heads.unit]
            total += (nets * np.where(self.head_total[at], heads, any_heads ** (1 if self.attn.cell else k))).sum()
        return total

    def mlp_sum(self, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """The MLP sum at place ``index`` of ``mlp.sums`` of each row's depth."""
        sums = {k: self.mlp.sums(k) for k in np.unique(self.depth[rows]).tolist()}
        return np.array([sums[k][i] for k, i in zip(self.depth[rows].tolist(), index.tolist(), strict=True)], np.int64)

    def price(self, name: str, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """A cost of the nets of some rows with those MLP sums."""
        columns = self.stem[rows], self.depth[rows], self.total[rows], self.head_total[rows]
        return self.costs[name].at(columns, self.mlp_sum(rows, index))

    def excess(self, genomes: np.ndarray) -> np.ndarray:
        """[K] how far nets are outside the budget, see ``budget.excess``; 0 inside."""
        table = genome.columns(self.space, genomes)
        stem = genomes[:, 0] * len(self.space.embed_widths) + genomes[:, 1]
        rows = stem, (table.heads > 0).sum(1), table.qkv.sum(1) // 3, table.heads.sum(1)
        values = {name: self.costs[name].at(rows, table.mlp.sum(1)) for name in self.budget or ("macs",)}
        return budgets.excess(self.budget, values)

    def build(self, rows: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random canonical genomes [K, G], one for each row and place of its MLP sum."""
        depth = self.depth[rows]
        attn = self.attn.fill(depth, self.total[rows], rng)
        mlp = self.mlp.fill(depth, self.mlp_sum(rows, index), rng)
        any_heads = rng.integers(0, len(self.space.num_heads), attn.shape)
        given = self.head_total[rows]
        heads = np.where(given[:, None] > 0, self.heads.fill(depth * (given > 0), given, rng), any_heads)
        return assemble(self.space, self.stem[rows], depth, heads, attn, mlp)

    def every(self) -> Iterator[np.ndarray]:
        """Every net inside, as canonical genomes [G]. There may be 1e40 of them: take as many as you need."""
        for row in range(len(self.stem)):
            k, stem, depth = int(self.depth[row]), self.stem[[row]], self.depth[[row]]
            for total in self.mlp.sums(k)[self.start[row] : self.stop[row]].tolist():
                for mlp in self.mlp.sequences(k, total):
                    for attn in self.attn.sequences(k, int(self.total[row])):
                        for head in self._heads_of(row):
                            cells = np.zeros((3, 1, self.space.depth), np.int64)
                            cells[:, 0, :k] = np.broadcast_to(head, k), attn, mlp
                            yield assemble(self.space, stem, depth, *cells)[0]

    def _heads_of(self, row: int) -> Iterator[tuple[int, ...]]:
        """Every choice of heads of a row's layers."""
        k, given = int(self.depth[row]), int(self.head_total[row])
        if given:
            return self.heads.sequences(k, given)
        return itertools.product(range(len(self.space.num_heads)), repeat=1 if self.attn.cell else k)


def assemble(space: SearchSpace, stem: np.ndarray, depth: np.ndarray, *cells: np.ndarray) -> np.ndarray:
    """Canonical genomes [K, G] of stems [K], depths [K] and cells (heads, q/k/v, MLP), each [K, L]."""
    first = np.stack(np.divmod(stem, len(space.embed_widths)), 1)
    if space.layout == "cell":
        return np.concatenate([first, np.stack([c[:, 0] for c in cells], 1), depth[:, None] - space.fewest_layers], 1)
    layers = np.stack(cells, 2)
    layers[np.arange(space.depth) >= depth[:, None]] = (len(space.num_heads), 0, 0)
    return np.concatenate([first, layers.reshape(len(stem), 3 * space.depth)], 1)


def feasible(space: SearchSpace, budget: Budget, priced: Costs = COSTS) -> Feasible:
    """The nets of the space inside the budget, which bounds some of the costs ``priced``.

    Raises:
        UserError: there is none; the line tells the costs of the net that comes nearest.
    """
    costs = {name: affine(space, cost) for name, cost in priced.items()}
    attn, heads, mlp = (
        width_sums(widths, space.depth, space.layout == "cell")
        for widths in (space.attn_widths, space.num_heads, space.mlp_widths)
    )
    count_heads = any(costs[name].heads.any() for name in budget)
    grids = {
        k: _grid(space, k, attn.sums(k), heads.sums(k) if count_heads else np.zeros(1, np.int64))
        for k in range(space.fewest_layers, space.depth + 1)
    }
    parts = []
    for k, grid in grids.items():
        start, stop = _interval(costs, budget, grid, mlp.sums(k))
        parts.append(np.stack([*grid, start, stop])[:, start < stop])
    rows = np.concatenate(parts, 1)
    if not rows.shape[1]:
        _, *row, M = min(_nearest(budget, costs, grid, mlp.sums(k)) for k, grid in grids.items())
        stem, depth, A, H = (np.array([value]) for value in row)
        values = {name: costs[name].at((stem, depth, A, H), M)[0] for name in budget}
        found = ", ".join(f"{name} {budgets.amount(name, value)}" for name, value in values.items())
        one = Feasible(space, budget, costs, attn, heads, mlp, stem, depth, A, H, stem, stem)
        place = np.searchsorted(mlp.sums(row[1]), [M])
        net = genome.decode(space, one.build(np.zeros(1, np.int64), place, np.random.default_rng(0))[0])
        raise UserError(
            f"{budgets.describe(budget)}: no net of the space is inside; the nearest has {found}: {net.words()}"
        )
    rows = rows[:, np.lexsort(rows[3::-1])]  # by stem, then depth, A, H
    return Feasible(space, budget, costs, attn, heads, mlp, *rows)


def _grid(space: SearchSpace, k: int, attn: np.ndarray, heads: np.ndarray) -> Rows:
    """Stem, depth, A, H, each [R], of all rows of depth k."""
    stems = np.arange(len(space.patch_sizes) * len(space.embed_widths))
    stem, total, head_total = (a.ravel() for a in np.meshgrid(stems, attn, heads, indexing="ij"))
    return stem, np.full_like(stem, k), total, head_total


def _interval(costs: dict[str, Affine], budget: Budget, grid: Rows, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[R] first and one past the last place in ``sums`` that keeps each row inside the budget (exact integers)."""
    start, stop = np.zeros_like(grid[0]), np.full_like(grid[0], len(sums))
    for name, (low, high) in budget.items():
        rest, slope = costs[name].at(grid, 0), costs[name].mlp[grid[0]]
        start = np.maximum(start, np.searchsorted(sums, -((rest - low) // slope), "left"))
        stop = np.minimum(stop, np.searchsorted(sums, (high - rest) // slope, "right"))
    return start, stop


def _nearest(
    budget: Budget, costs: dict[str, Affine], grid: Rows, sums: np.ndarray
) -> tuple[float, int, int, int, int, int]:
    """Violation, stem, depth, A, H and MLP sum of the nets of a grid that are least outside.

    The violation is convex and piecewise linear in M, so that its minimum lies beside the edge of a bound.
    """
    best = []
    for name, bound in budget.items():
        for edge in bound:
            for place in _interval(costs, {name: (edge, edge)}, grid, sums):
                for shift in (-1, 0):
                    M = sums[np.clip(place + shift, 0, len(sums) - 1)]
                    values = {other: costs[other].at(grid, M) for other in budget}
                    far = budgets.excess(budget, values)
                    i = int(np.argmin(far))
                    stem, depth, A, H = (int(column[i]) for column in grid)
                    best.append((float(far[i]), stem, depth, A, H, int(M[i])))
    return min(best)

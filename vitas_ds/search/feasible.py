"""All nets of a space that meet a budget, known exactly without listing them. No torch.

Given the stem (patch, embedding) and the depth k, every cost of cost.py is affine in A, the sum of the layers' q
widths, and M, the sum of their MLP widths. So the nets inside the budget are a table of rows (stem, k, A), each with
one interval of M: some ten thousand rows for 1e43 nets. It tells at once whether the budget can be met, by how many
nets, which net comes nearest, and how to build a random one that is inside.
"""
# R rows, K nets, S stems, L positions, W widths

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vitas_ds.errors import UserError
from vitas_ds.search import budget as budgets
from vitas_ds.search.budget import COSTS, Budget
from vitas_ds.space import Columns, SearchSpace


@dataclass(frozen=True)
class WidthSums:
    """What the widths of k layers can sum to, and in how many orders. ``cell``: all k widths are the same."""

    widths: np.ndarray  # [W]
    unit: int  # greatest common divisor of the widths
    ways: np.ndarray  # [L + 1, largest sum / unit + 1] number of width sequences of that length and sum
    cell: bool

    def sums(self, depth: int) -> np.ndarray:
        """Every sum of ``depth`` widths, ascending."""
        return np.flatnonzero(self.ways[depth]) * self.unit

    def count(self, depth: int) -> np.ndarray:
        """The number of sequences behind each of ``sums(depth)``."""
        return self.ways[depth][self.ways[depth] > 0]

    def fill(self, depths: np.ndarray, totals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Indices of widths [K, L] that sum to ``totals`` over the first ``depths`` positions, 0 beyond.

        Each sequence of that sum is equally likely.
        """
        positions = len(self.ways) - 1
        if self.cell:
            index = np.searchsorted(self.widths, totals // depths)
            return index[:, None] * (np.arange(positions) < depths[:, None])
        left, steps = totals // self.unit, self.widths // self.unit
        genes = np.zeros((len(totals), positions), np.int64)
        for i in range(positions):
            after = np.maximum(depths - i - 1, 0)
            rest = left[:, None] - steps
            weight = np.where(rest >= 0, self.ways[after[:, None], np.maximum(rest, 0)], 0.0).cumsum(1)
            pick = (rng.random((len(totals), 1)) * weight[:, -1:] >= weight).sum(1)
            genes[:, i] = np.where(i < depths, pick, 0)
            left = left - np.where(i < depths, steps[genes[:, i]], 0)
        return genes

    def sequences(self, depth: int, total: int) -> Iterator[tuple[int, ...]]:
        """Every sequence of indices with that sum."""
        if self.cell:
            yield (int(np.searchsorted(self.widths, total // depth)),) * depth
        elif depth == 0:
            yield ()
        else:
            for i, width in enumerate(self.widths.tolist()):
                if width <= total and self.ways[depth - 1, (total - width) // self.unit]:
                    for rest in self.sequences(depth - 1, total - width):
                        yield (i, *rest)


def width_sums(widths: tuple[int, ...], positions: int, cell: bool) -> WidthSums:
    """The sums of 0 to ``positions`` widths."""
    unit = math.gcd(*widths)
    ways = np.zeros((positions + 1, positions * widths[-1] // unit + 1))
    ways[0, 0] = 1
    for k in range(1, positions + 1):
        for width in widths:
            if cell:
                ways[k, k * width // unit] = 1
            else:
                ways[k, width // unit :] += ways[k - 1, : ways.shape[1] - width // unit]
    return WidthSums(np.array(widths), unit, ways, cell)


@dataclass(frozen=True)
class Affine:
    """Each stem's cost as ``base + layer * k + attn * A + mlp * M``, arrays [S] with S = patches x embeddings."""

    base: np.ndarray
    layer: np.ndarray
    attn: np.ndarray
    mlp: np.ndarray

    def at(self, stem: np.ndarray, depth: np.ndarray | int, attn: np.ndarray, mlp: np.ndarray | int) -> np.ndarray:
        """The cost of nets with these stems, depths and sums."""
        return self.base[stem] + self.layer[stem] * depth + self.attn[stem] * attn + self.mlp[stem] * mlp


def affine(space: SearchSpace, name: str) -> Affine:
    """The coefficients of a cost, read off cost.py at four nets of one layer."""
    patch = np.repeat(space.patch_sizes, len(space.embed_widths))
    embed = np.tile(space.embed_widths, len(space.patch_sizes))

    def probe(heads: int, qkv: int, mlp: int) -> np.ndarray:
        column = (np.full((len(patch), 1), value) for value in (heads, qkv, mlp))
        return COSTS[name](Columns(space.image_size, space.num_classes, patch, embed, *column))

    base, layer = probe(0, 0, 0), probe(1, 0, 0)
    return Affine(base, layer - base, probe(1, 3, 0) - layer, probe(1, 0, 1) - layer)


@dataclass(frozen=True)
class Feasible:
    """The nets inside a budget. Row r: stem, depth, A, and the MLP sums ``mlp.sums(depth)[start:stop]``."""

    space: SearchSpace
    budget: Budget
    costs: dict[str, Affine]
    attn: WidthSums
    mlp: WidthSums
    stem: np.ndarray  # [R] patch index x embeddings + embedding index
    depth: np.ndarray  # [R]
    total: np.ndarray  # [R] A
    start: np.ndarray  # [R]
    stop: np.ndarray  # [R]

    def size(self) -> float:
        """How many distinct nets are inside."""
        heads, total = len(self.space.num_heads), 0.0
        for k in np.unique(self.depth).tolist():
            at = self.depth == k
            below = np.concatenate([[0.0], self.mlp.count(k).cumsum()])
            nets = self.attn.ways[k, self.total[at] // self.attn.unit] * (below[self.stop[at]] - below[self.start[at]])
            total += nets.sum() * float(heads) ** (1 if self.attn.cell else k)
        return total

    def mlp_sum(self, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """The MLP sum at place ``index`` of ``mlp.sums`` of each row's depth."""
        sums = {k: self.mlp.sums(k) for k in np.unique(self.depth[rows]).tolist()}
        return np.array([sums[k][i] for k, i in zip(self.depth[rows].tolist(), index.tolist(), strict=True)], np.int64)

    def price(self, name: str, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """A cost of the nets of some rows with those MLP sums."""
        return self.costs[name].at(self.stem[rows], self.depth[rows], self.total[rows], self.mlp_sum(rows, index))

    def build(self, rows: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Random canonical genomes [K, G], one for each row and place of its MLP sum; heads are uniform."""
        depth = self.depth[rows]
        attn = self.attn.fill(depth, self.total[rows], rng)
        mlp = self.mlp.fill(depth, self.mlp_sum(rows, index), rng)
        heads = rng.integers(0, len(self.space.num_heads), attn.shape)
        return assemble(self.space, self.stem[rows], depth, heads, attn, mlp)

    def every(self) -> Iterator[np.ndarray]:
        """Every net inside, as canonical genomes [G]. There may be 1e40 of them: take as many as you need."""
        heads = range(len(self.space.num_heads))
        for row in range(len(self.stem)):
            k, stem, depth = int(self.depth[row]), self.stem[[row]], self.depth[[row]]
            for total in self.mlp.sums(k)[self.start[row] : self.stop[row]].tolist():
                for mlp in self.mlp.sequences(k, total):
                    for attn in self.attn.sequences(k, int(self.total[row])):
                        for head in itertools.product(heads, repeat=1 if self.attn.cell else k):
                            cells = np.zeros((3, 1, self.space.depth), np.int64)
                            cells[:, 0, :k] = np.broadcast_to(head, k), attn, mlp
                            yield assemble(self.space, stem, depth, *cells)[0]


def assemble(space: SearchSpace, stem: np.ndarray, depth: np.ndarray, *cells: np.ndarray) -> np.ndarray:
    """Canonical genomes [K, G] of stems [K], depths [K] and cells (heads, q/k/v, MLP), each [K, L]."""
    first = np.stack(np.divmod(stem, len(space.embed_widths)), 1)
    if space.layout == "cell":
        return np.concatenate([first, np.stack([c[:, 0] for c in cells], 1), depth[:, None] - space.fewest_layers], 1)
    layers = np.stack(cells, 2)
    layers[np.arange(space.depth) >= depth[:, None]] = (len(space.num_heads), 0, 0)
    return np.concatenate([first, layers.reshape(len(stem), 3 * space.depth)], 1)


def feasible(space: SearchSpace, budget: Budget) -> Feasible:
    """The nets of the space inside the budget.

    Raises:
        UserError: there is none; the line tells the costs of the net that comes nearest.
    """
    costs = {name: affine(space, name) for name in COSTS}
    attn = width_sums(space.attn_widths, space.depth, space.layout == "cell")
    mlp = width_sums(space.mlp_widths, space.depth, space.layout == "cell")
    parts = []
    for k in range(space.fewest_layers, space.depth + 1):
        stem, total = _grid(costs, attn, k)
        start, stop = _interval(costs, budget, stem, k, total, mlp.sums(k))
        parts.append(np.stack([stem, np.full_like(stem, k), total, start, stop])[:, start < stop])
    rows = np.concatenate(parts, 1)
    if not rows.shape[1]:
        near = min(_nearest(budget, costs, attn, mlp, k) for k in range(space.fewest_layers, space.depth + 1))
        found = ", ".join(f"{name} {value:,}" for name, value in zip(budget, near[1:], strict=True))
        raise UserError(f"{budgets.describe(budget)}: no net of the space is inside; the nearest has {found}")
    rows = rows[:, np.lexsort(rows[2::-1])]  # by stem, then depth, then A
    return Feasible(space, budget, costs, attn, mlp, *rows)


def _grid(costs: dict[str, Affine], attn: WidthSums, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Stem and A, each [R], of all rows of depth k."""
    stem, total = np.meshgrid(np.arange(len(costs["macs"].base)), attn.sums(k), indexing="ij")
    return stem.ravel(), total.ravel()


def _interval(
    costs: dict[str, Affine], budget: Budget, stem: np.ndarray, k: int, total: np.ndarray, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """[R] first and one past the last place in ``sums`` that keeps each row inside the budget (exact integers)."""
    start, stop = np.zeros_like(stem), np.full_like(stem, len(sums))
    for name, (low, high) in budget.items():
        rest, slope = costs[name].at(stem, k, total, 0), costs[name].mlp[stem]
        start = np.maximum(start, np.searchsorted(sums, -((rest - low) // slope), "left"))
        stop = np.minimum(stop, np.searchsorted(sums, (high - rest) // slope, "right"))
    return start, stop


def _nearest(budget: Budget, costs: dict[str, Affine], attn: WidthSums, mlp: WidthSums, k: int) -> tuple[float, ...]:
    """Violation and costs of the net of depth k that is least outside.

    The violation is convex and piecewise linear in M, so that its minimum lies beside the edge of a bound.
    """
    (stem, total), sums = _grid(costs, attn, k), mlp.sums(k)
    best: list[tuple[float, ...]] = []
    for name, bound in budget.items():
        for edge in bound:
            for place in _interval(costs, {name: (edge, edge)}, stem, k, total, sums):
                for shift in (-1, 0):
                    M = sums[np.clip(place + shift, 0, len(sums) - 1)]
                    values = {other: costs[other].at(stem, k, total, M) for other in budget}
                    far = budgets.excess(budget, values)
                    i = int(np.argmin(far))
                    best.append((float(far[i]), *(int(value[i]) for value in values.values())))
    return min(best)

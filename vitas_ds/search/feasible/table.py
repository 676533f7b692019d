"""The feasible set: all networks of a space within a budget, represented exactly without enumerating them.

For a fixed stem (patch size, embed_dim) and depth k, every cost is affine in three sums over the layers: A of the q
widths, M of the MLP widths, and H of the head counts (activations and latency only). The networks within the budget
are therefore a table of rows (stem, k, A, H), each with one interval of M: some ten thousand rows for 1e43 networks.
The table shows at once whether the budget can be met, by how many networks, and which network is closest to it. It
also yields random feasible networks. If no bounded cost depends on the heads, H is not fixed, and its column is 0.

In an elastic space, the q width of a layer is its heads times the channels of a head. Pairs of heads and q/k/v width
then take the place of the widths in the sums, each with the code ``q width * radix + heads``.

Importing this module does not import torch.
"""
# R rows, K networks, S stems, L positions, G genes, k depth

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import COSTS, Budget, Costs
from vitas_ds.search.feasible.width_sums import WidthSums, width_sums

NO_HEADS = np.zeros(1, np.int64)  # the only H if no bounded cost depends on the heads
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Stem, depth, A and H, each [R]."""


@dataclass(frozen=True)
class AffineCost:
    """Coefficients [S] of a cost: ``base + layer * k + attn * A + heads * H + mlp * M`` for each stem."""

    base: np.ndarray
    layer: np.ndarray
    attn: np.ndarray
    heads: np.ndarray
    mlp: np.ndarray

    def evaluate(self, rows: Rows, mlp_sum: np.ndarray | int) -> np.ndarray:
        """Compute the cost of networks with these rows and sums of MLP widths."""
        stem, depth, A, H = rows
        layers = self.layer[stem] * depth + self.attn[stem] * A + self.heads[stem] * H + self.mlp[stem] * mlp_sum
        return self.base[stem] + layers


def affine_cost(space: SearchSpace, cost: Callable[[WidthTable], np.ndarray]) -> AffineCost:
    """Determine the coefficients of a cost by evaluating it on networks of one layer."""
    patch_size = np.repeat(space.patch_sizes, len(space.embed_widths))
    embed_dim = np.tile(space.embed_widths, len(space.patch_sizes))

    def evaluate(num_heads: int, qkv_dim: int, mlp_dim: int) -> np.ndarray:
        layer = (np.full((len(patch_size), 1), value) for value in (num_heads, qkv_dim, mlp_dim))
        widths = patch_size, embed_dim, *layer
        return cost(WidthTable(space.image_size, space.num_classes, *widths, **space.elastic.costs))

    base, one_head = evaluate(0, 0, 0), evaluate(1, 0, 0)
    heads = evaluate(2, 0, 0) - one_head
    attn, mlp = evaluate(1, 3, 0) - one_head, evaluate(1, 0, 1) - one_head
    return AffineCost(base, one_head - base - heads, attn, heads, mlp)


@dataclass(frozen=True)
class FeasibleSet:
    """The networks within a budget.

    Row r holds all networks with its stem, depth, A and H, and with a sum of MLP widths M in
    ``mlp_sums.sums(depth)[start:stop]``.
    """

    space: SearchSpace
    budget: Budget
    costs: dict[str, AffineCost]  # all costs, bounded or not
    attn_sums: WidthSums  # elastic: of the codes of pairs
    head_sums: WidthSums
    mlp_sums: WidthSums
    radix: int  # elastic: of the codes, 1 if H is not fixed; else 0
    stem: np.ndarray  # [R] patch size gene * number of embed_dim choices + embed_dim gene
    depth: np.ndarray  # [R]
    attn_sum: np.ndarray  # [R] A
    head_sum: np.ndarray  # [R] H; 0: any heads
    start: np.ndarray  # [R]
    stop: np.ndarray  # [R]

    def size(self) -> float:
        """Count the distinct networks."""
        num_heads, total = float(len(self.space.num_heads)), 0.0
        for k in np.unique(self.depth).tolist():
            at = self.depth == k
            cumulative = np.concatenate([[0.0], self.mlp_sums.num_sequences(k).cumsum()])
            attn = self.attn_sums.counts[k, self._attn_code(at) // self.attn_sums.unit]
            widths = attn * (cumulative[self.stop[at]] - cumulative[self.start[at]])
            if self.radix:
                total += widths.sum()
                continue
            fixed_heads = self.head_sums.counts[k, self.head_sum[at] // self.head_sums.unit]
            any_heads = num_heads ** (1 if self.attn_sums.cell else k)
            total += (widths * np.where(self.head_sum[at], fixed_heads, any_heads)).sum()
        return total

    def _attn_code(self, rows: np.ndarray) -> np.ndarray:
        """Return the sum of each row in ``attn_sums``."""
        return self.attn_sum[rows] * self.radix + self.head_sum[rows] if self.radix else self.attn_sum[rows]

    def mlp_sum(self, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return M for each row and index into ``mlp_sums.sums`` of the depth of the row."""
        sums = {k: self.mlp_sums.sums(k) for k in np.unique(self.depth[rows]).tolist()}
        return np.array([sums[k][i] for k, i in zip(self.depth[rows].tolist(), index.tolist(), strict=True)], np.int64)

    def cost(self, name: str, rows: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Compute a cost of the networks with these rows and indices of M."""
        columns = self.stem[rows], self.depth[rows], self.attn_sum[rows], self.head_sum[rows]
        return self.costs[name].evaluate(columns, self.mlp_sum(rows, index))

    def violation(self, genomes: np.ndarray) -> np.ndarray:
        """Compute by how much genomes [K, G] violate the budget [K], see ``budget.violation``."""
        table = genome.width_table(self.space, genomes)
        stem = genomes[:, 0] * len(self.space.embed_widths) + genomes[:, 1]
        rows = stem, (table.num_heads > 0).sum(1), table.qkv_dim.sum(1) // 3, table.num_heads.sum(1)
        mlp_sum = table.mlp_dim.sum(1)
        values = {name: self.costs[name].evaluate(rows, mlp_sum) for name in self.budget or ("macs",)}
        return budgets.violation(self.budget, values)

    def sample_rows(self, rows: np.ndarray, index: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a random canonical genome for each row and index of M [K, G]."""
        depth = self.depth[rows]
        attn = self.attn_sums.sample(depth, self._attn_code(rows), rng)
        mlp = self.mlp_sums.sample(depth, self.mlp_sum(rows, index), rng)
        if self.radix:
            return _build_genomes(self.space, self.stem[rows], depth, *self._split_pairs(attn), mlp)
        any_heads = rng.integers(0, len(self.space.num_heads), attn.shape)
        H = self.head_sum[rows]
        heads = np.where(H[:, None] > 0, self.head_sums.sample(depth * (H > 0), H, rng), any_heads)
        return _build_genomes(self.space, self.stem[rows], depth, heads, attn, mlp)

    def _split_pairs(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the genes of heads and q/k/v width of pairs."""
        return np.divmod(pairs, self.space.attn_table.shape[1])

    def enumerate_all(self) -> Iterator[np.ndarray]:
        """Yield every network as a canonical genome [G]. There may be 1e40: stop when you have enough."""
        for row in range(len(self.stem)):
            k, stem, depth = int(self.depth[row]), self.stem[[row]], self.depth[[row]]
            A = int(self._attn_code(np.array([row]))[0])
            for M in self.mlp_sums.sums(k)[self.start[row] : self.stop[row]].tolist():
                for mlp in self.mlp_sums.sequences(k, M):
                    for attn in self.attn_sums.sequences(k, A):
                        for heads in self._head_sequences(row):
                            layers = np.zeros((3, 1, self.space.depth), np.int64)
                            pairs = self._split_pairs(np.array(attn)) if self.radix else (heads, attn)
                            layers[:, 0, :k] = np.broadcast_to(pairs[0], k), pairs[1], mlp
                            yield _build_genomes(self.space, stem, depth, *layers)[0]

    def _head_sequences(self, row: int) -> Iterator[tuple[int, ...]]:
        """Yield all choices of heads of the layers of a row."""
        k, H = int(self.depth[row]), int(self.head_sum[row])
        if self.radix:
            return iter([(0,) * k])  # those of the pairs
        if H:
            return self.head_sums.sequences(k, H)
        return itertools.product(range(len(self.space.num_heads)), repeat=1 if self.attn_sums.cell else k)


def _build_genomes(space: SearchSpace, stem: np.ndarray, depth: np.ndarray, *genes: np.ndarray) -> np.ndarray:
    """Build canonical genomes [K, G] from stems [K], depths [K] and genes of heads, q/k/v and MLP, each [K, L]."""
    first = np.stack(np.divmod(stem, len(space.embed_widths)), 1)
    if space.layout == "cell":
        cell = np.stack([gene[:, 0] for gene in genes], 1)
        return np.concatenate([first, cell, depth[:, None] - space.min_layers], 1)
    layers = np.stack(genes, 2)
    layers[np.arange(space.depth) >= depth[:, None]] = (len(space.num_heads), 0, 0)
    genomes = np.concatenate([first, layers.reshape(len(stem), 3 * space.depth)], 1)
    return genome.canonical(space, genomes) if space.elastic.on else genomes


def feasible_set(space: SearchSpace, budget: Budget, costs: Costs = COSTS) -> FeasibleSet:
    """Compute the networks of the space within the budget.

    Args:
        space: The search space.
        budget: Bounds on some of ``costs``.
        costs: The cost functions.

    Raises:
        UserError: The set is empty. The message states the network closest to the budget and its costs.
    """
    affine = {name: affine_cost(space, cost) for name, cost in costs.items()}
    count_heads = any(affine[name].heads.any() for name in budget)
    codes, radix = _pair_codes(space, count_heads) if space.elastic.on else (space.attn_widths, 0)
    attn_sums, head_sums, mlp_sums = (
        width_sums(widths, space.depth, space.layout == "cell") for widths in (codes, space.num_heads, space.mlp_widths)
    )
    grids = {
        k: _grid(space, k, attn_sums.sums(k), head_sums.sums(k) if count_heads and not radix else NO_HEADS, radix)
        for k in range(space.min_layers, space.depth + 1)
    }
    parts = []
    for k, grid in grids.items():
        start, stop = _interval(affine, budget, grid, mlp_sums.sums(k))
        parts.append(np.stack([*grid, start, stop])[:, start < stop])
    rows = np.concatenate(parts, 1)
    if not rows.shape[1]:
        _, *row, M = min(_closest(budget, affine, grid, mlp_sums.sums(k)) for k, grid in grids.items())
        index = int(np.searchsorted(mlp_sums.sums(row[1]), M))
        closest = np.array([*row, index, index + 1])[:, None]
        raise UserError(
            _empty_message(FeasibleSet(space, budget, affine, attn_sums, head_sums, mlp_sums, radix, *closest))
        )
    rows = rows[:, np.lexsort(rows[3::-1])]  # sort by stem, then depth, A, H
    return FeasibleSet(space, budget, affine, attn_sums, head_sums, mlp_sums, radix, *rows)


def _pair_codes(space: SearchSpace, count_heads: bool) -> tuple[tuple[int, ...], int]:
    """Return the codes of all pairs of heads and q/k/v width, and their radix."""
    radix = space.depth * space.num_heads[-1] + 1 if count_heads else 1
    heads = np.array(space.num_heads)[:, None] if count_heads else 0
    return tuple((space.attn_table[:-1] * radix + heads).ravel().tolist()), radix


def _grid(space: SearchSpace, k: int, attn_sums: np.ndarray, head_sums: np.ndarray, radix: int) -> Rows:
    """Return all rows of depth k. In an elastic space, ``attn_sums`` are sums of codes."""
    stems = np.arange(len(space.patch_sizes) * len(space.embed_widths))
    stem, attn_sum, head_sum = (a.ravel() for a in np.meshgrid(stems, attn_sums, head_sums, indexing="ij"))
    if radix:
        attn_sum, head_sum = np.divmod(attn_sum, radix)
    return stem, np.full_like(stem, k), attn_sum, head_sum


def _interval(
    costs: dict[str, AffineCost], budget: Budget, grid: Rows, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return start and stop [R] of the interval of ``sums`` within the budget of each row; exact (integers)."""
    start, stop = np.zeros_like(grid[0]), np.full_like(grid[0], len(sums))
    for name, (low, high) in budget.items():
        intercept, slope = costs[name].evaluate(grid, 0), costs[name].mlp[grid[0]]
        start = np.maximum(start, np.searchsorted(sums, -((intercept - low) // slope), "left"))
        stop = np.minimum(stop, np.searchsorted(sums, (high - intercept) // slope, "right"))
    return start, stop


def _closest(
    budget: Budget, costs: dict[str, AffineCost], grid: Rows, sums: np.ndarray
) -> tuple[float, int, int, int, int, int]:
    """Return violation, stem, depth, A, H and M of the networks of a grid with the smallest violation.

    The violation is convex and piecewise linear in M: its minimum is next to the M at which a cost meets a bound.
    """
    candidates = []
    for name, bounds in budget.items():
        for bound in bounds:
            for index in _interval(costs, {name: (bound, bound)}, grid, sums):
                for shift in (-1, 0):
                    M = sums[np.clip(index + shift, 0, len(sums) - 1)]
                    values = {other: costs[other].evaluate(grid, M) for other in budget}
                    violation = budgets.violation(budget, values)
                    i = int(np.argmin(violation))
                    stem, depth, A, H = (int(column[i]) for column in grid)
                    candidates.append((float(violation[i]), stem, depth, A, H, int(M[i])))
    return min(candidates)


def _empty_message(closest: FeasibleSet) -> str:
    """Format the error for an empty set, whose only row is the one closest to the budget."""
    row = np.zeros(1, np.int64)
    values = {name: closest.cost(name, row, closest.start)[0] for name in closest.budget}
    costs = ", ".join(f"{name} {budgets.format_cost(name, value)}" for name, value in values.items())
    spec = genome.decode(closest.space, closest.sample_rows(row, closest.start, np.random.default_rng(0))[0])
    return (
        f"{budgets.format_budget(closest.budget)}: no network of the space is within the budget; the closest has "
        f"{costs}: {spec.describe()}{_limits(closest)}"
    )


def _limits(feasible: FeasibleSet) -> str:
    """Return the smallest and the largest counted costs of the whole space, for a message."""
    space = feasible.space
    stems = np.arange(len(space.patch_sizes) * len(space.embed_widths))
    limits = []
    for name in (name for name in feasible.budget if name in COSTS):
        ends = []
        for depth, choice in ((space.min_layers, 0), (space.depth, -1)):
            attn, heads, mlp = space.attn_widths[choice], space.num_heads[choice], space.mlp_widths[choice]
            k, A, H = (np.full_like(stems, depth * value) for value in (1, attn, heads))
            ends.append(feasible.costs[name].evaluate((stems, k, A, H), depth * mlp))
        limits.append(f"{name} {' to '.join(budgets.format_cost(name, x) for x in (ends[0].min(), ends[1].max()))}")
    return f"; all networks have {', '.join(limits)}" if limits else ""

"""Sample and repair genomes within a budget. Importing this module does not import torch."""
# K networks, G genes, R rows of the feasible set, L positions

from __future__ import annotations

from collections.abc import Set

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.search.feasible.table import FeasibleSet

MAX_ROUNDS = 20  # rounds of random draws before the remaining networks are enumerated
MAX_MOVES = 200  # random gene moves tried on a child before it is rebuilt
PATIENCE = 60  # moves without any improvement before the remaining children are rebuilt


def key(row: np.ndarray) -> bytes:
    """Return the key of a canonical genome [G] in a set of genomes."""
    return np.asarray(row, np.int64).tobytes()


def new_rows(genomes: np.ndarray, seen: Set[bytes]) -> np.ndarray:
    """Return the indices of rows not in ``seen``, without repeats of an earlier row."""
    first: dict[bytes, int] = {}
    for i, row in enumerate(genomes):
        first.setdefault(key(row), i)
    return np.array([i for k, i in first.items() if k not in seen], np.int64)


def stratified_sample(feasible: FeasibleSet, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``count`` networks [K, G] that cover patch sizes, embed_dims, depths, widths and costs evenly.

    This is stratified sampling along the sorted table. Each patch size has the same weight, then each embed_dim of a
    patch size, then each row of these. The cost range of the budget is split into ``count`` slices, and the sum of MLP
    widths of each network moves its cost into its slice.
    """
    patch = feasible.stem // len(feasible.space.embed_widths)
    weight = 1 / np.bincount(feasible.stem)[feasible.stem]
    weight /= np.bincount(patch, weight)[patch]
    ticks = (np.arange(count) + rng.random(count)) / count * weight.sum()
    rows = np.minimum(np.searchsorted(np.cumsum(weight), ticks, "right"), len(weight) - 1)
    name = next(iter(feasible.budget), "macs")
    low, high = cost_range(feasible, name)
    target = low + (high - low) * (rng.permutation(count) + rng.random(count)) / count
    return feasible.sample_rows(rows, _closest_index(feasible, name, rows, target), rng)


def cost_range(feasible: FeasibleSet, name: str) -> tuple[float, float]:
    """Return the smallest and largest cost of all feasible networks."""
    rows = np.arange(len(feasible.stem))
    smallest, largest = feasible.cost(name, rows, feasible.start), feasible.cost(name, rows, feasible.stop - 1)
    return float(smallest.min()), float(largest.max())


def _closest_index(feasible: FeasibleSet, name: str, rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Find by bisection the index [K] of the MLP sum that brings the cost of each row closest to its target."""
    low, high = feasible.start[rows], feasible.stop[rows] - 1
    while (low < high).any():
        middle = (low + high + 1) // 2
        below = feasible.cost(name, rows, middle) <= target
        low, high = np.where(below, middle, low), np.where(below, high, np.maximum(middle - 1, low))
    above = np.minimum(low + 1, feasible.stop[rows] - 1)
    above_is_closer = abs(feasible.cost(name, rows, above) - target) < abs(feasible.cost(name, rows, low) - target)
    return np.where(above_is_closer, above, low)


def sample_distinct(
    feasible: FeasibleSet, count: int, rng: np.random.Generator, seen: Set[bytes] = frozenset()
) -> np.ndarray:
    """Draw up to ``count`` distinct feasible networks [K, G] not in ``seen``; fewer only if no more exist."""
    found = np.zeros((0, len(feasible.space.gene_sizes)), np.int64)
    for _ in range(MAX_ROUNDS):
        if len(found) == count:
            return found
        found = np.concatenate([found, stratified_sample(feasible, count - len(found), rng)])
        found = found[new_rows(found, seen)]
    known = set(seen) | {key(row) for row in found}
    enumerated = []
    for row in feasible.enumerate_all() if len(found) < count else ():
        if key(row) not in known:
            enumerated.append(row)
            if len(found) + len(enumerated) == count:
                break
    return np.concatenate([found, np.array(enumerated, np.int64).reshape(-1, found.shape[1])])


def repair(feasible: FeasibleSet, genomes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move genomes [K, G] into the budget and return them in canonical form. Feasible genomes do not change.

    An infeasible genome takes random moves, each of one gene by one step, and keeps those that reduce its violation.
    If no move helps, it is rebuilt: with its stem and depth if any such network is feasible, and with the closest sums
    of widths.
    """
    genomes = genome.canonical(feasible.space, genomes)
    _add_missing_layers(feasible.space, genomes, rng)
    violation, last_improvement = feasible.violation(genomes), 0
    for move in range(MAX_MOVES):
        infeasible = np.flatnonzero(violation > 0)
        if not len(infeasible):
            return genomes
        if move - last_improvement > PATIENCE:
            break
        moved = _random_move(feasible.space, genomes[infeasible], rng)
        new_violation = feasible.violation(moved)
        better = new_violation < violation[infeasible]
        genomes[infeasible[better]], violation[infeasible[better]] = moved[better], new_violation[better]
        last_improvement = move if better.any() else last_improvement
    infeasible = np.flatnonzero(violation > 0)
    if len(infeasible):
        genomes[infeasible] = _rebuild(feasible, genomes[infeasible], rng)
    return genomes


def _random_move(space: SearchSpace, genomes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move one random gene of each genome [K, G], except the patch size, up or down by one; canonical form."""
    rows = np.arange(len(genomes))
    gene = rng.integers(1, genomes.shape[1], len(genomes))
    moved = genomes.copy()
    step = rng.choice([-1, 1], len(genomes))
    moved[rows, gene] = np.clip(moved[rows, gene] + step, 0, space.gene_sizes[gene] - 1)
    moved = genome.canonical(space, moved)
    too_shallow = _depth(space, moved) < space.min_layers
    moved[too_shallow] = genomes[too_shallow]
    return moved


def _depth(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """Return the number of layers [K] of each network."""
    return (genome.width_table(space, genomes).num_heads > 0).sum(1)


def _add_missing_layers(space: SearchSpace, genomes: np.ndarray, rng: np.random.Generator) -> None:
    """Fill too shallow canonical genomes with random layers up to ``min_layers``, in place."""
    if space.layout == "cell":
        return
    identity = len(space.num_heads)
    layers = genomes[:, 2:].reshape(len(genomes), space.depth, 3)
    missing = (layers[..., 0] == identity) & space.active_positions[space.min_layers]
    layers[missing] = rng.integers(0, [identity, *space.gene_sizes[3:5]], (int(missing.sum()), 3))
    genomes[:, 2:] = layers.reshape(len(genomes), -1)


def _rebuild(feasible: FeasibleSet, genomes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw feasible networks whose stem, depth and sums of widths are closest to those of ``genomes``."""
    space = feasible.space
    table, depth = genome.width_table(space, genomes), _depth(space, genomes)
    A, M = table.qkv_dim.sum(1) // 3, table.mlp_dim.sum(1)
    num_embeds = len(space.embed_widths)
    rows = np.zeros(len(genomes), np.int64)
    for i, (patch, embed) in enumerate(genomes[:, :2]):
        distance = abs(feasible.stem // num_embeds - patch) * num_embeds + abs(feasible.stem % num_embeds - embed)
        distance = distance + abs(feasible.depth - depth[i])
        # below 1: decides between rows with the same stem and depth
        attn_distance = abs(feasible.attn_sum - A[i]) / (1 + feasible.attn_sum.max() + A[i])
        rows[i] = np.argmin(distance + attn_distance)
    index = [np.searchsorted(feasible.mlp_sums.sums(int(feasible.depth[r])), m) for r, m in zip(rows, M, strict=True)]
    clipped = np.clip(np.array(index, np.int64), feasible.start[rows], feasible.stop[rows] - 1)
    return feasible.sample_rows(rows, clipped, rng)

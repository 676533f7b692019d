"""Candidates that are inside the budget and distinct: even samples of a space, and the repair of children. No torch."""
# K nets, G genes, R rows of the feasible table

from __future__ import annotations

from collections.abc import Set

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.search.feasible.table import Feasible

ROUNDS = 20  # of random draws before what is left is listed one by one
MOVES = 200  # random gene moves tried on a child before it is rebuilt
PATIENCE = 60  # moves after which children that none of them brought closer are rebuilt


def key(row: np.ndarray) -> bytes:
    """What tells a canonical genome [G] from another one in a set."""
    return np.asarray(row, np.int64).tobytes()


def distinct(genomes: np.ndarray, seen: Set[bytes]) -> np.ndarray:
    """The places of the rows that are neither in ``seen`` nor a repeat of an earlier row."""
    first: dict[bytes, int] = {}
    for i, row in enumerate(genomes):
        first.setdefault(key(row), i)
    return np.array([i for k, i in first.items() if k not in seen], np.int64)


def spread(inside: Feasible, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` nets [K, G] that cover space and budget evenly: patch sizes, embeddings, depths, widths and cost.

    Stratified sampling down the sorted table, in which each patch size has the same weight, so has each embedding
    width of a patch size, and each row of these; a net's MLP widths then bring its cost into its slice of the range.
    """
    patch = inside.stem // len(inside.space.embed_widths)
    weight = 1 / np.bincount(inside.stem)[inside.stem]
    weight /= np.bincount(patch, weight)[patch]
    ticks = (np.arange(count) + rng.random(count)) / count * weight.sum()
    rows = np.minimum(np.searchsorted(np.cumsum(weight), ticks, "right"), len(weight) - 1)
    name = next(iter(inside.budget), "macs")
    low, high = cost_range(inside, name)
    target = low + (high - low) * (rng.permutation(count) + rng.random(count)) / count
    return inside.build(rows, _closest(inside, name, rows, target), rng)


def cost_range(inside: Feasible, name: str) -> tuple[float, float]:
    """Smallest and largest cost that exists inside."""
    rows = np.arange(len(inside.stem))
    return float(inside.price(name, rows, inside.start).min()), float(inside.price(name, rows, inside.stop - 1).max())


def _closest(inside: Feasible, name: str, rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[K] the place of the MLP sum that brings each row's cost closest to its target, by bisection."""
    low, high = inside.start[rows], inside.stop[rows] - 1
    while (low < high).any():
        middle = (low + high + 1) // 2
        below = inside.price(name, rows, middle) <= target
        low, high = np.where(below, middle, low), np.where(below, high, np.maximum(middle - 1, low))
    above = np.minimum(low + 1, inside.stop[rows] - 1)
    nearer = abs(inside.price(name, rows, above) - target) < abs(inside.price(name, rows, low) - target)
    return np.where(nearer, above, low)


def fresh(inside: Feasible, count: int, rng: np.random.Generator, seen: Set[bytes] = frozenset()) -> np.ndarray:
    """Up to ``count`` distinct nets [K, G] inside the budget that are not in ``seen``; fewer only if no more exist."""
    found = np.zeros((0, len(inside.space.gene_sizes)), np.int64)
    for _ in range(ROUNDS):
        if len(found) == count:
            return found
        found = np.concatenate([found, spread(inside, count - len(found), rng)])
        found = found[distinct(found, seen)]
    known = set(seen) | {key(row) for row in found}
    more = []
    for row in inside.every() if len(found) < count else ():
        if key(row) not in known:
            more.append(row)
            if len(found) + len(more) == count:
                break
    return np.concatenate([found, np.array(more, np.int64).reshape(-1, found.shape[1])])


def repair(inside: Feasible, genomes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Canonical genomes [K, G], each inside the budget; rows that are inside already stay as they are.

    A net outside takes random steps of one gene by one, each of which brings it closer. Where these lead nowhere,
    it is rebuilt: the same stem and depth if any net of theirs is inside, and the nearest width sums.
    """
    genomes = genome.canonical(inside.space, genomes)
    _lift_to_min_depth(inside.space, genomes, rng)
    far, last = inside.excess(genomes), 0
    for move in range(MOVES):
        out = np.flatnonzero(far > 0)
        if not len(out):
            return genomes
        if move - last > PATIENCE:
            break
        moved = _random_step(inside.space, genomes[out], rng)
        closer = inside.excess(moved)
        better = closer < far[out]
        genomes[out[better]], far[out[better]] = moved[better], closer[better]
        last = move if better.any() else last
    out = np.flatnonzero(far > 0)
    if len(out):
        genomes[out] = _rebuild(inside, genomes[out], rng)
    return genomes


def _random_step(space: SearchSpace, genomes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each net [K, G] with one random gene moved up or down by one (not the patch size), in canonical form."""
    rows = np.arange(len(genomes))
    gene = rng.integers(1, genomes.shape[1], len(genomes))
    moved = genomes.copy()
    step = rng.choice([-1, 1], len(genomes))
    moved[rows, gene] = np.clip(moved[rows, gene] + step, 0, space.gene_sizes[gene] - 1)
    moved = genome.canonical(space, moved)
    shallow = _depth(space, moved) < space.fewest_layers
    moved[shallow] = genomes[shallow]
    return moved


def _depth(space: SearchSpace, genomes: np.ndarray) -> np.ndarray:
    """[K] layers of each net."""
    return (genome.columns(space, genomes).heads > 0).sum(1)


def _lift_to_min_depth(space: SearchSpace, genomes: np.ndarray, rng: np.random.Generator) -> None:
    """Give canonical nets that are too shallow the layers they lack, of random genes, in place."""
    if space.layout == "cell":
        return
    heads = len(space.num_heads)
    layers = genomes[:, 2:].reshape(len(genomes), space.depth, 3)
    lacking = (layers[..., 0] == heads) & (np.arange(space.depth) < space.fewest_layers)
    layers[lacking] = rng.integers(0, [heads, *space.gene_sizes[3:5]], (int(lacking.sum()), 3))
    genomes[:, 2:] = layers.reshape(len(genomes), -1)


def _rebuild(inside: Feasible, genomes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The nets inside whose stem, depth and width sums come nearest to those of ``genomes``, of random layers."""
    space = inside.space
    table, depth = genome.columns(space, genomes), _depth(space, genomes)
    A, M = table.qkv.sum(1) // 3, table.mlp.sum(1)
    embeds = len(space.embed_widths)
    rows = np.zeros(len(genomes), np.int64)
    for i, net in enumerate(genomes):
        away = abs(inside.stem // embeds - net[0]) * embeds + abs(inside.stem % embeds - net[1])
        away = away + abs(inside.depth - depth[i])
        rows[i] = np.argmin(away + abs(inside.total - A[i]) / (1 + inside.total.max() + A[i]))
    place = [np.searchsorted(inside.mlp.sums(int(inside.depth[r])), m) for r, m in zip(rows, M, strict=True)]
    return inside.build(rows, np.clip(np.array(place, np.int64), inside.start[rows], inside.stop[rows] - 1), rng)

"""Build subnets of a pretrained network from the importance of its units, as seeds of a search.

Greedy networks start from the widest one of a depth and an embed_dim. The step that costs the least importance per
saved cost, one choice narrower in one layer, is taken until the network is within the budget. The importance of heads,
channels and MLP units is the expected change in loss and adds up; that of layers and of the residual stream has other
units. So depth and embed_dim are not traded against the others: each combination gives one network.

Importing this module does not import torch.
"""
# L positions, h choices of heads, q of channels of a head, m of MLP widths, k depth, G genes, K networks

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from vitas_ds.arch.space import SearchSpace
from vitas_ds.elastic.scores import LayerScores, Scores
from vitas_ds.search.feasible.table import AffineCost, FeasibleSet


@dataclass(frozen=True)
class Losses:
    """Expected change in loss for every choice of a layer: heads and channels [L, h, q], MLP width [L, m]."""

    attn: np.ndarray
    mlp: np.ndarray


def expected_losses(space: SearchSpace, scores: Scores) -> Losses:
    """Return the importance that each choice removes from a layer. The least important units are removed first."""
    attn = np.array([_attn_losses(space, layer) for layer in scores.layers])
    mlp = np.array([[sum(sorted(x.mlp, reverse=True)[width:]) for width in space.mlp_widths] for x in scores.layers])
    return Losses(attn, mlp)


def _attn_losses(space: SearchSpace, scores: LayerScores) -> np.ndarray:
    """Return the losses [h, q] of keeping some heads, and the first channels of each."""
    order = np.argsort(-np.array(scores.heads), kind="stable")
    channels = [np.reshape(x, (len(order), -1))[order] for x in (scores.qk, scores.v)]  # [heads, head_dim]
    channels = [-np.sort(-x, axis=1) for x in channels]
    found = np.zeros((len(space.num_heads), space.attn_table.shape[1]))
    for h, kept in enumerate(space.num_heads):
        for q, width in enumerate(space.attn_table[h].tolist()):
            narrow = sum(x[:kept, width // kept :].sum() for x in channels)
            found[h, q] = np.array(scores.heads)[order[kept:]].sum() + narrow
    return found


def seeds(space: SearchSpace, scores: Scores, feasible: FeasibleSet, count: int) -> np.ndarray:
    """Return up to ``count`` networks within a budget, [K, G]: the uniform one, then greedy ones.

    The first greedy one has the most layers and the largest embed_dim that fit. Each of the others differs as much as
    possible in both from those before it, so that a few also cover shallow and narrow networks.
    """
    losses = expected_losses(space, scores)
    depths, embeds = range(space.depth, space.min_layers - 1, -1), range(len(space.embed_widths) - 1, -1, -1)
    built = {point: greedy(space, losses, feasible, point[1], point[0]) for point in itertools.product(depths, embeds)}
    within = {x: row for x, row in built.items() if row is not None and not feasible.violation(row[None])[0]}
    rows = [uniform(space, losses, feasible), *(within[point] for point in _spread([*within]))]
    distinct = {row.tobytes(): row for row in rows if row is not None}
    return np.array([*distinct.values()][:count], np.int64).reshape(-1, len(space.gene_sizes))


def _spread(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the points in another order: the first one, then always the one farthest from all before it."""
    if not points:
        return []
    at = np.array(points, float)
    at /= np.maximum(np.ptp(at, axis=0), 1)
    order, nearest = [0], np.full(len(at), np.inf)
    while len(order) < len(at):
        nearest = np.minimum(nearest, np.linalg.norm(at - at[order[-1]], axis=1))
        nearest[order[-1]] = -1  # taken
        order.append(int(np.argmax(nearest)))
    return [points[i] for i in order]


def greedy(space: SearchSpace, losses: Losses, feasible: FeasibleSet, embed: int, depth: int) -> np.ndarray | None:
    """Return the greedy network [G] of an index of embed_dim and a depth; None if even the narrowest is too large.

    The network may be below the budget: if the widest one of this depth and embed_dim is, or the last step skips it.
    """
    layers = np.flatnonzero(space.active_positions[depth])
    widest = [size - 1 for size in (len(space.num_heads), space.attn_table.shape[1], len(space.mlp_widths))]
    genes = np.tile(np.array(widest), (len(layers), 1))  # [k, 3]
    while (name := _exceeded(space, feasible, genes, embed)) is not None:
        moves = _moves(space, losses, feasible, name, genes, layers, embed)
        if not np.isfinite(moves).any():
            return None
        layer, gene = np.unravel_index(int(np.argmin(moves)), moves.shape)
        genes[layer, gene] -= 1
    row = np.full((space.depth, 3), (len(space.num_heads), 0, 0))
    row[layers] = genes
    return np.array([0, embed, *row.ravel()], np.int64)


def _exceeded(space: SearchSpace, feasible: FeasibleSet, genes: np.ndarray, embed: int) -> str | None:
    """Return the first cost of the network above the budget."""
    heads, attn, mlp = _widths(space, genes)
    rows = np.array([embed]), np.array([len(genes)]), attn.sum()[None], heads.sum()[None]
    for name, (_, high) in feasible.budget.items():
        if feasible.costs[name].evaluate(rows, int(mlp.sum()))[0] > high:
            return name
    return None


def _widths(space: SearchSpace, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return heads, width of q and MLP width of genes [..., 3]."""
    h, q, m = np.moveaxis(genes, -1, 0)
    return np.array(space.num_heads)[h], space.attn_table[h, q], np.array(space.mlp_widths)[m]


def _moves(
    space: SearchSpace, losses: Losses, feasible: FeasibleSet, name: str, genes: np.ndarray, layers: np.ndarray,
    embed: int,
) -> np.ndarray:  # fmt: skip
    """Return the lost importance per saved cost of narrowing each gene by one choice, [k, 3]; infinite at the end."""
    cost, found = feasible.costs[name], np.full(genes.shape, np.inf)
    before = _loss(losses, genes, layers), _price(space, cost, embed, genes)
    for gene in range(3):
        narrower = genes.copy()
        narrower[:, gene] = np.maximum(narrower[:, gene] - 1, 0)
        lost, saved = _loss(losses, narrower, layers) - before[0], before[1] - _price(space, cost, embed, narrower)
        allowed = saved > 0
        found[allowed, gene] = lost[allowed] / saved[allowed]
    return found


def _loss(losses: Losses, genes: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Return the expected loss of each layer [k]."""
    h, q, m = genes.T
    return losses.attn[layers, h, q] + losses.mlp[layers, m]


def _price(space: SearchSpace, cost: AffineCost, embed: int, genes: np.ndarray) -> np.ndarray:
    """Return the cost of each layer [k]."""
    stem = embed  # the index of patch size and embed_dim: these spaces have one patch size
    heads, attn, mlp = _widths(space, genes)
    return cost.attn[stem] * attn + cost.heads[stem] * heads + cost.mlp[stem] * mlp


def uniform(space: SearchSpace, losses: Losses, feasible: FeasibleSet) -> np.ndarray | None:
    """Return the network [G] within the budget whose layers are all equal; None if there is none.

    Of several, it is one with the most layers, then with the largest embed_dim, then with the smallest expected loss.
    """
    for depth in range(space.depth, space.min_layers - 1, -1):
        rows = uniform_networks(space, feasible, depth)
        if len(rows):
            return rows[np.lexsort((uniform_losses(space, losses, rows, depth), -rows[:, 1]))[0]]
    return None


def uniform_losses(space: SearchSpace, losses: Losses, rows: np.ndarray, depth: int) -> np.ndarray:
    """Return the expected loss [K] of networks [K, G] of a depth whose layers are all equal."""
    layers = np.flatnonzero(space.active_positions[depth])
    h, q, m = rows[:, 2:].reshape(len(rows), space.depth, 3)[:, layers[0]].T
    return losses.attn[layers][:, h, q].sum(0) + losses.mlp[layers][:, m].sum(0)


def uniform_networks(space: SearchSpace, feasible: FeasibleSet, depth: int) -> np.ndarray:
    """Return all networks [K, G] of a depth within the budget whose layers are all equal."""
    sizes = [len(space.embed_widths), len(space.num_heads), space.attn_table.shape[1], len(space.mlp_widths)]
    embed, *layer = (a.ravel() for a in np.meshgrid(*map(np.arange, sizes), indexing="ij"))
    rows = np.tile(np.array((len(space.num_heads), 0, 0)), (len(embed), space.depth, 1))
    rows[:, space.active_positions[depth]] = np.stack(layer, 1)[:, None]
    genomes = np.column_stack([np.zeros_like(embed), embed, rows.reshape(len(embed), -1)])
    return genomes[feasible.violation(genomes) == 0]

"""Seeds of a search. References: sums by hand, and a search through all networks of a small space."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.elastic.greedy import Losses, expected_losses, greedy, seeds, uniform
from vitas_ds.elastic.scores import LayerScores, Scores
from vitas_ds.search.feasible.table import FeasibleSet, feasible_set

SPACE = SearchSpace(
    image_size=32, num_classes=10, patch_sizes=(8,), embed_dim=16, depth=3, num_heads=(1, 2), qkv_dim=24, mlp_dim=8,
    embed_ratios=(0.75, 1.0), qkv_ratios=(0.5, 1.0), mlp_ratios=(0.25, 0.5, 0.75, 1.0), min_depth=2,
    elastic={"head_dim": 4, "drop_order": (1, 0, 2)},
)  # fmt: skip


def layer_scores(seed: int) -> LayerScores:
    rng = np.random.default_rng(seed)
    heads, qk, v, mlp = (tuple(rng.random(n).tolist()) for n in (2, 8, 8, 8))
    return LayerScores(heads, qk, v, mlp, 0.1, 0.1, 0.1)


SCORES = Scores("w", "d", 1, "labels", (0.0,) * 16, tuple(map(layer_scores, range(3))))
LOSSES = expected_losses(SPACE, SCORES)


def budget(low: int, high: int) -> FeasibleSet:
    return feasible_set(SPACE, {"macs": (low, high)})


def test_losses_of_a_layer_by_hand() -> None:
    """The second head is the more important one; channels are sorted within their head."""
    scores = LayerScores((1.0, 3.0), (5, 1, 2, 4, 1, 8, 2, 3), (1,) * 8, (4, 1, 3, 2, 0, 0, 0, 7), 0, 0, 0)
    losses = expected_losses(SPACE, Scores("w", "d", 1, "labels", (0.0,) * 16, (scores,) * 3))
    assert losses.attn[0].tolist() == [[1 + 3 + 2, 1], [1 + 2 + 1 + 2 + 4, 0]]
    assert losses.mlp[0].tolist() == [3 + 2 + 1, 1, 0, 0]


def loss_of(row: np.ndarray, losses: Losses = LOSSES) -> float:
    layers = row[2:].reshape(-1, 3)
    return sum(losses.attn[i, h, q] + losses.mlp[i, m] for i, (h, q, m) in enumerate(layers) if h < 2)


def macs_of(row: np.ndarray) -> int:
    return cost.spec_macs(genome.decode(SPACE, row))


@pytest.mark.parametrize("high", [95_000, 80_000, 65_000])
def test_greedy_networks_take_the_cheapest_step_until_they_fit(high: int) -> None:
    """A plain loop that prices whole networks takes the same steps."""
    row = genome.largest(SPACE).copy()
    while macs_of(row) > high:
        moves = {}
        for gene in range(2, len(row)):
            if row[gene] > 0:
                narrow = row.copy()
                narrow[gene] -= 1
                moves[gene] = (loss_of(narrow) - loss_of(row)) / (macs_of(row) - macs_of(narrow))
        row[min(moves, key=lambda gene: moves[gene])] -= 1
    found = greedy(SPACE, LOSSES, budget(0, high), 1, 3)
    assert found is not None and found.tolist() == row.tolist()


def test_greedy_networks_lose_less_than_most_networks_of_the_same_cost() -> None:
    feasible = budget(78_000, 82_000)
    row = greedy(SPACE, LOSSES, feasible, 1, 3)
    genes = [range(2), range(2), range(4)] * 3
    rows = np.array([(0, 1, *row) for row in itertools.product(*genes)])
    others = [loss_of(row) for row in rows[feasible.violation(rows) == 0]]
    assert row is not None and len(others) > 50 and np.mean(np.array(others) < loss_of(row) - 1e-12) < 0.05


def test_dropped_layers_are_those_of_the_order() -> None:
    row = greedy(SPACE, LOSSES, budget(0, 60_000), 1, 2)
    assert row is not None and row[2:].reshape(3, 3)[:, 0].tolist()[1] == 2  # the identity
    assert greedy(SPACE, LOSSES, feasible_set(SPACE, {"params": (0, 10**6), "macs": (0, 10**6)}), 1, 3) is not None


def test_the_uniform_network_has_equal_layers_and_the_smallest_loss() -> None:
    feasible = budget(70_000, 85_000)
    row = uniform(SPACE, LOSSES, feasible)
    assert row is not None
    layers = row[2:].reshape(3, 3)
    assert (layers == layers[0]).all() and row[1] == 1 and not feasible.violation(row[None])[0]
    all_rows = [np.array([0, 1, *(layer * 3)]) for layer in itertools.product(range(2), range(2), range(4))]
    assert loss_of(row) == min(loss_of(x) for x in all_rows if not feasible.violation(x[None])[0])


def test_seeds_are_distinct_and_within_the_budget() -> None:
    feasible = budget(58_000, 66_000)
    found = seeds(SPACE, SCORES, feasible, 10)
    assert 2 <= len(found) <= 5 and not feasible.violation(found).any()
    assert len({row.tobytes() for row in found}) == len(found)
    assert (genome.canonical(SPACE, found) == found).all()
    assert seeds(SPACE, SCORES, feasible, 1).tolist() == found[:1].tolist()


def test_a_few_seeds_cover_shallow_and_narrow_networks() -> None:
    """Corners of depth and embed_dim first, the most layers and the widest embed_dim before the others."""
    wide = {"embed_ratios": (0.5, 0.75, 1.0), "depth": 4, "elastic": {"head_dim": 4, "drop_order": (1, 0, 2, 3)}}
    space = SearchSpace(**SPACE.model_dump() | wide)
    scores = Scores("w", "d", 1, "labels", (0.0,) * 16, tuple(map(layer_scores, range(4))))
    found = seeds(space, scores, feasible_set(space, {"macs": (0, 75_000)}), 10)
    points = [(int((row[2:].reshape(4, 3)[:, 0] < 2).sum()), int(row[1])) for row in found[1:]]
    assert len(points) == 9 and points[:2] == [(4, 2), (2, 0)] and set(points[2:4]) == {(4, 0), (2, 2)}
    assert points[4] == (3, 1)

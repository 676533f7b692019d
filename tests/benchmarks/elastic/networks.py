"""The networks of each method, and the weights of a network pruned in one shot."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.elastic.study import Study
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config.limits import Limit
from vitas_ds.elastic.fill import fill
from vitas_ds.elastic.greedy import Losses, expected_losses, greedy, uniform_losses, uniform_networks
from vitas_ds.elastic.scores import read_scores
from vitas_ds.errors import UserError
from vitas_ds.export.folder import read_model, read_preprocess, write_model
from vitas_ds.models.extract import extract
from vitas_ds.models.supernet import Supernet
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.search.feasible.operators import sample_distinct
from vitas_ds.search.feasible.several import feasible_sets
from vitas_ds.search.feasible.table import FeasibleSet

DRAW = 0xE1B  # tag of the random stream of random subnets
PRUNED = ("uniform", "greedy")  # methods that choose by score
DEEPER = 2  # layers that a sibling may have more or fewer than the start network
Specs = dict[str, list[dict[str, Any]]]
Score = Callable[[SubnetSpec], float]


def of_search(run: RunDir) -> list[dict[str, Any]]:
    """Return the networks that a search found, one for each budget."""
    return [budget["top"][0]["spec"] for budget in read_json(run.best, {})["budgets"]]


def by_importance(run: RunDir, seed: int, score: Score) -> tuple[Specs, dict[str, list[int]]]:
    """Return networks of the other methods for each budget, from the importance that a run has measured.

    Importance cannot compare depths and embedding widths. So the uniform and the greedy network of each combination are
    scored, and the best one counts.

    Returns:
        The networks of each method, and the MACs of a forward pass of all networks scored for each budget.
    """
    config = read_config(run)
    space, sets = config.space, feasible_sets(config.space, config.search)
    losses = expected_losses(space, read_scores(run.importance))
    options = {
        "uniform": [uniform_options(space, losses, feasible) for feasible in sets],
        "greedy": [greedy_options(space, losses, feasible) for feasible in sets],
        "random": [[*sample_distinct(feasible, 1, np.random.default_rng([DRAW, seed, i]))]
                   for i, feasible in enumerate(sets)],
    }  # fmt: skip
    missing = [name for name, found in options.items() if not all(found)]
    if missing:
        raise UserError(f"search.budgets: no {missing[0]} network within one of them; choose other budgets")
    specs = {name: [[_spec(space, row) for row in rows] for rows in found] for name, found in options.items()}
    macs = {name: [sum(map(spec_macs, some)) for some in specs[name]] for name in PRUNED}
    best = {name: [max(some, key=score) for some in specs[name]] for name in PRUNED}
    best["random"] = [spec for (spec,) in specs["random"]]
    return {name: [spec.to_dict() for spec in found] for name, found in best.items()}, macs


def uniform_options(space: SearchSpace, losses: Losses, feasible: FeasibleSet) -> list[np.ndarray]:
    """Return the uniform network of the smallest expected loss for each depth and embed_dim."""
    found = []
    for depth in range(space.min_layers, space.depth + 1):
        rows = uniform_networks(space, feasible, depth)
        for embed in np.unique(rows[:, 1]):
            some = rows[rows[:, 1] == embed]
            found.append(some[np.argmin(uniform_losses(space, losses, some, depth))])
    return found


def greedy_options(space: SearchSpace, losses: Losses, feasible: FeasibleSet) -> list[np.ndarray]:
    """Return the greedy network of each depth and embed_dim within the budget."""
    choices = itertools.product(range(space.min_layers, space.depth + 1), range(len(space.embed_widths)))
    rows = [greedy(space, losses, feasible, embed, depth) for depth, embed in choices]
    return [row for row in rows if row is not None and not feasible.violation(row[None])[0]]


def _spec(space: SearchSpace, row: np.ndarray) -> SubnetSpec:
    return genome.decode(space, row).canonical()


def sibling(study: Study, limit: Limit) -> SubnetSpec:
    """Return a smaller network of the same family, as one would design it by hand.

    As in DeiT, all layers are equal, heads have the size of those of the start network, and so has the MLP ratio. Of
    those within the budget that are about as deep, it is the one that uses most of it.
    """
    whole = study.largest
    size, ratio = whole.active[0].head_dim, whole.active[0].mlp_dim / whole.embed_dim
    found = []
    for heads in range(1, whole.embed_dim // size):
        width = heads * size
        layer = LayerSpec(heads, 3 * width, round(ratio * width))
        for depth in range(whole.depth - DEEPER, whole.depth + DEEPER + 1):
            found.append(SubnetSpec(whole.image_size, whole.patch_size, width, whole.num_classes, (layer,) * depth))
    inside = [spec for spec in found if spec_macs(spec) <= limit.high]
    if not inside:
        raise UserError(f"search.budgets: {limit.text}: no sibling of the start network is so small")
    return max(inside, key=spec_macs)


def sorted_supernet(run: RunDir) -> Supernet:
    """Return the start network of a run as a supernet, with units sorted by importance."""
    config = read_config(run)
    supernet = Supernet(config.space, config.supernet.sharing, config.supernet.private_attention, class_token_only=True)
    fill(supernet, read_model(run.pretrained).state_dict())
    return supernet


def write_pruned(run: RunDir, spec: SubnetSpec, folder: Path) -> None:
    """Write a subnet of the start network as a model folder unless it exists."""
    if not folder.exists():
        write_model(extract(sorted_supernet(run), spec), folder, read_preprocess(run.pretrained), folder.name, {})

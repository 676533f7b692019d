"""What a search has to beat: random search at as many scores, and uniform nets, at the same budget."""

from __future__ import annotations

import numpy as np

from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import feasible
from vitas_ds.search.loop import ranked, search
from vitas_ds.search.scoring.candidates import ScoreFunction, candidates, scored
from vitas_ds.search.scoring.ledger import Entry, Ledger


def baselines(
    space: SearchSpace,
    cfg: config.Search,
    score: ScoreFunction,
    ledger: Ledger,
    seed: int,
    images: int = 0,
    costs: budgets.Costs = budgets.COSTS,
) -> dict[str, list[Entry]]:
    """Candidates of each baseline, best first, scored as the search scores: ``random`` and ``uniform``.

    ``ledger`` is one of their own, which may borrow from the search's. ``uniform`` is missing where the space has
    uniform nets only, or none of them is inside the budget.
    """
    random = cfg.model_copy(update={"algorithm": "random", "objectives": (), "surrogate": 0.0})
    found = {"random": ranked(search(space, random, score, ledger, seed, images=images, costs=costs).entries)}
    uniform = uniform_nets(space, cfg, seed, costs)
    if len(uniform):
        found["uniform"] = ranked(list(scored(candidates(space, uniform, 1, costs), score, ledger, images)))
    return found


def uniform_nets(space: SearchSpace, cfg: config.Search, seed: int, costs: budgets.Costs = budgets.COSTS) -> np.ndarray:
    """Up to a population of nets inside the budget whose layers are all alike, as genomes [K, G] of ``space``."""
    empty = np.zeros((0, len(space.gene_sizes)), np.int64)
    if space.layout == "cell":
        return empty
    cells = SearchSpace(**space.model_dump() | {"layout": "cell"})
    try:
        inside = feasible(cells, budgets.of_config(cfg, costs), costs)
    except UserError:
        return empty
    nets = operators.fresh(inside, cfg.population, np.random.default_rng([seed, 0xCE]))
    return np.array([genome.encode(space, genome.decode(cells, net)) for net in nets])

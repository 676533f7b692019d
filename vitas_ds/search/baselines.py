"""Baselines of a search within the same budget: random search with as many scores, and uniform subnets."""
# K genomes, G genes

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.elastic.greedy import uniform_networks
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import operators
from vitas_ds.search.loop import run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import ranked
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.evaluation import Evaluator


def score_baselines(problem: SearchProblem, evaluator: Evaluator) -> dict[str, list[Candidate]]:
    """Score the candidates of each baseline.

    Args:
        problem: The search's problem.
        evaluator: Scores as the search does, with a ledger of its own that may reuse the search's scores.

    Returns:
        Candidates, best first, of ``random`` and ``uniform``. ``uniform`` is missing if the space contains only uniform
        subnets, or none within the budget.
    """
    cfg = problem.cfg.model_copy(update={"algorithm": "random", "objectives": (), "surrogate": 0.0})
    found = {"random": ranked(run_loop(replace(problem, cfg=cfg), evaluator).candidates)}
    uniform = uniform_genomes(problem)
    if len(uniform):
        found["uniform"] = ranked(list(evaluator(problem.price(uniform, 1))))
    return found


def uniform_genomes(problem: SearchProblem) -> np.ndarray:
    """Return up to a population of subnets within the budget whose layers are all equal, as genomes [K, G]."""
    space, none = problem.space, np.zeros((0, len(problem.space.gene_sizes)), np.int64)
    if space.layout == "cell":
        return none
    rng = np.random.default_rng([problem.seed, 0xCE])
    if space.elastic.on:
        depths = range(space.min_layers, space.depth + 1)
        rows = np.concatenate([uniform_networks(space, problem.feasible, depth) for depth in depths])
        return rng.permutation(rows)[: problem.cfg.population]
    cell_space = SearchSpace(**space.model_dump() | {"layout": "cell"})
    try:
        feasible = replace(problem, space=cell_space).feasible
    except UserError:
        return none
    genomes = operators.sample_distinct(feasible, problem.cfg.population, rng)
    return np.array([genome.encode(space, genome.decode(cell_space, row)) for row in genomes])

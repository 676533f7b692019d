"""Search a space with any score function, without a run folder: the search of the stage, as a function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.search.feasible.budget import COSTS
from vitas_ds.search.loop import GenerationSummary, run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import Result
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import in_memory

# settings of the section search with an effect here
USED = (
    "algorithm", "population", "generations", "objectives", "crossover_prob", "random_fraction", "mutation_eta",
    "surrogate", *COSTS,
)  # fmt: skip


def search_nets(
    space: SearchSpace, score: Callable[[SubnetSpec], float], seed: int = 0,
    on_generation: Callable[[GenerationSummary], object] | None = None, **settings: Any,
) -> Result:  # fmt: skip
    """Search for the subnets with the highest score within a budget.

    A subnet is scored once, even if it is drawn several times. The result depends on the seed and the scores only.

    Args:
        space: The search space.
        score: Returns the score of a subnet; higher is better, and it must be finite.
        seed: Seed of the search.
        on_generation: Called after each generation.
        settings: Settings of the section ``search``: a budget (``macs=(0, 1e9)``), ``algorithm``, ``population``,
            ``generations``, ...

    Returns:
        All candidates, the best one, and the front of score against cost.

    Raises:
        UserError: No subnet of the space is within the budget, a setting needs measurements, or a score is not finite.
        pydantic.ValidationError: A setting does not exist, or its value is invalid.
    """
    cfg = config.Search(**settings)
    _check(cfg)
    problem = SearchProblem(space, cfg, seed)
    evaluator = Evaluator(lambda specs: map(score, specs), in_memory())
    return run_loop(problem, evaluator, on_generation=on_generation)


def _check(cfg: config.Search) -> None:
    """Refuse budgets that need a stage, and warn about other settings without effect."""
    timed = [name for name in ("latency", "throughput") if getattr(cfg, name) is not None]
    timed += ["objectives"] if cfg.timed else []
    if timed:
        raise UserError(
            f"search_nets: {timed[0]}: latencies are measured by the stage search only; use a budget of "
            f"{', '.join(COSTS)}, or let the score include the latency"
        )
    if cfg.budgets:
        raise UserError("search_nets: budgets: several budgets are searched by the stage search only; call it for each")
    if cfg.algorithm != "nsga2" and cfg.objectives:
        warnings.warn("search_nets: objectives is ignored: algorithm is not nsga2", stacklevel=3)
    for name, value in config.Search():
        if name not in USED and getattr(cfg, name) != value:
            warnings.warn(f"search_nets: {name} is ignored: only the stage search uses it", stacklevel=3)

"""Search a space with any score function, without a run folder: the search of the stage, as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.loop import GenerationSummary, run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import Result
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import in_memory


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
        UserError: No subnet of the space is within the budget.
        pydantic.ValidationError: A setting does not exist, or its value is invalid.
    """
    problem = SearchProblem(space, config.Search(**settings), seed)
    evaluator = Evaluator(lambda specs: map(score, specs), in_memory())
    return run_loop(problem, evaluator, on_generation=on_generation)

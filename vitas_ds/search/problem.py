"""The problem of a search: space, budget and objectives."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import COSTS, Budget, Costs
from vitas_ds.search.feasible.operators import cost_range
from vitas_ds.search.feasible.table import FeasibleSet, feasible_set
from vitas_ds.search.scoring.candidate import Candidate, price


@dataclass(frozen=True)
class SearchProblem:
    """Space, budget and objectives of a search, and the seed of its random draws.

    Attributes:
        space: The search space.
        cfg: The section ``search`` of the configuration.
        seed: Seed of the search.
        costs: Cost functions; they include the latency if the budget or an objective needs it.
        seeds: Canonical genomes within the budget for the first generation, [K, G].
    """

    space: SearchSpace
    cfg: config.Search
    seed: int
    costs: Costs = field(default_factory=lambda: COSTS)
    seeds: np.ndarray | None = field(default=None, compare=False)

    @property
    def budget(self) -> Budget:
        """Bounds of the costs."""
        return budgets.from_config(self.cfg, self.costs)

    @cached_property
    def feasible(self) -> FeasibleSet:
        """Subnets within the budget. Raises ``UserError`` if there are none."""
        return feasible_set(self.space, self.budget, self.costs)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Costs to minimize in addition to the score: ``search.objectives``, for NSGA-II at least the MACs."""
        return (tuple(self.cfg.objectives) or ("macs",)) if self.cfg.algorithm == "nsga2" else ()

    @cached_property
    def max_costs(self) -> dict[str, float]:
        """Largest feasible value of each objective (of the MACs without one): reference point of the hypervolume."""
        return {name: cost_range(self.feasible, name)[1] for name in self.objectives or ("macs",)}

    def price(self, genomes: np.ndarray, generation: int) -> list[Candidate]:
        """Return canonical genomes [K, G] as candidates with their costs, not yet scored."""
        return price(self.space, genomes, generation, self.costs)

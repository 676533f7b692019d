"""Budgets: lower and upper bounds on the costs of every candidate. Importing this module does not import torch."""
# K networks, G genes

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from vitas_ds import config
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace, WidthTable

Costs = Mapping[str, Callable[[WidthTable], np.ndarray]]
"""Cost functions by name, each returning int64 [K]. ``table.py`` requires them to be affine in sums over the layers."""

COSTS: Costs = cost.COSTS
"""The counted costs. A search may add ``latency``: the predicted picoseconds of a batch (``search.latency``)."""

PS_PER_SECOND = 10**12
MAX_LATENCY = 1000 * PS_PER_SECOND  # means no upper bound

Budget = dict[str, tuple[int, int]]
"""Smallest and largest allowed value of each bounded cost, both inclusive."""


def from_config(search: config.Search, costs: Costs = COSTS) -> Budget:
    """Return the budget of the ``search`` section. Costs without a bound in the section are absent."""
    bounds = {name: getattr(search, name) for name in costs if name != "latency"}
    budget = {name: (math.ceil(pair[0]), math.floor(pair[1])) for name, pair in bounds.items() if pair is not None}
    if "latency" in costs and search.seconds is not None:
        low, high = search.seconds
        budget["latency"] = math.ceil(low * PS_PER_SECOND), math.floor(min(high * PS_PER_SECOND, MAX_LATENCY))
    return budget


def compute_costs(
    space: SearchSpace, genomes: np.ndarray, names: tuple[str, ...] | None = None, costs: Costs = COSTS
) -> dict[str, np.ndarray]:
    """Compute costs of genomes [K, G], each int64 [K]. ``names`` selects some of ``costs``; None: all."""
    table = genome.width_table(space, genomes)
    return {name: costs[name](table) for name in (costs if names is None else names)}


def violation(budget: Budget, values: dict[str, np.ndarray]) -> np.ndarray:
    """Compute by how much costs violate the budget [K]: the sum of the relative violations, 0 within the budget."""
    total = np.zeros(len(next(iter(values.values()), ())))
    for name, (low, high) in budget.items():
        total += (np.maximum(low - values[name], 0) + np.maximum(values[name] - high, 0)) / max(high, 1)
    return total


def format_cost(name: str, value: float) -> str:
    """Format a cost for a message."""
    return f"{value / PS_PER_SECOND:.4g} s" if name == "latency" else f"{int(value):,}"


def format_budget(budget: Budget) -> str:
    """Format a budget for a message."""
    return " and ".join(
        f"search.{name} [{format_cost(name, low)}, {format_cost(name, high)}]" for name, (low, high) in budget.items()
    )

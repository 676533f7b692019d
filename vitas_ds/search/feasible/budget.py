"""A budget: ranges of costs that every candidate lies in. No torch."""
# K nets, G genes, C costs

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from vitas_ds import config
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import Columns, SearchSpace

Costs = Mapping[str, Callable[[Columns], np.ndarray]]
"""What is priced, by name: int64 [K] of a table of nets. Each is affine in the sums of a net's widths (feasible.py)."""

COSTS: Costs = {
    "macs": cost.macs, "vitas_flops": cost.vitas_flops, "params": cost.params, "activations": cost.activations,
}  # fmt: skip
"""What is counted. A search may have ``latency`` too: predicted picoseconds of a batch (latency.py)."""

PICO = 10**12
LONGEST = 1000 * PICO  # no bound

Budget = dict[str, tuple[int, int]]
"""Smallest and largest allowed value of each bounded cost, both included."""


def of_config(search: config.Search, costs: Costs = COSTS) -> Budget:
    """The budget that the ``search`` section states for these costs; those it does not bound are absent."""
    given = {name: getattr(search, name) for name in costs if name != "latency"}
    budget = {name: (math.ceil(pair[0]), math.floor(pair[1])) for name, pair in given.items() if pair is not None}
    if "latency" in costs and search.seconds is not None:
        low, high = search.seconds
        budget["latency"] = math.ceil(low * PICO), math.floor(min(high * PICO, LONGEST))
    return budget


def prices(
    space: SearchSpace, genomes: np.ndarray, names: tuple[str, ...] | None = None, costs: Costs = COSTS
) -> dict[str, np.ndarray]:
    """Some or all costs of some nets: name -> int64 [K]."""
    table = genome.columns(space, genomes)
    return {name: costs[name](table) for name in (costs if names is None else names)}


def excess(budget: Budget, values: dict[str, np.ndarray]) -> np.ndarray:
    """[K] how far nets of these costs are outside the budget: the sum of the relative excesses, 0 inside."""
    total = np.zeros(len(next(iter(values.values()), ())))
    for name, (low, high) in budget.items():
        total += (np.maximum(low - values[name], 0) + np.maximum(values[name] - high, 0)) / max(high, 1)
    return total


def amount(name: str, value: float) -> str:
    """A cost in words."""
    return f"{value / PICO:.4g} s" if name == "latency" else f"{int(value):,}"


def describe(budget: Budget) -> str:
    """The budget in words, for a message."""
    return " and ".join(f"search.{name} [{amount(name, a)}, {amount(name, b)}]" for name, (a, b) in budget.items())

"""A budget: ranges of costs that every candidate lies in. No torch."""
# K nets, G genes, C costs

from __future__ import annotations

import math

import numpy as np

from vitas_ds import config, cost, genome
from vitas_ds.space import SearchSpace

COSTS = {"macs": cost.macs, "vitas_flops": cost.vitas_flops, "params": cost.params, "activations": cost.activations}

Budget = dict[str, tuple[int, int]]
"""Smallest and largest allowed value of each bounded cost, both included."""


def of_config(search: config.Search) -> Budget:
    """The budget that the ``search`` section states; costs it does not bound are absent."""
    given = {name: getattr(search, name) for name in COSTS}
    return {name: (math.ceil(pair[0]), math.floor(pair[1])) for name, pair in given.items() if pair is not None}


def prices(space: SearchSpace, genomes: np.ndarray, names: tuple[str, ...] = tuple(COSTS)) -> dict[str, np.ndarray]:
    """Some or all costs of some nets: name -> int64 [K]."""
    table = genome.columns(space, genomes)
    return {name: COSTS[name](table) for name in names}


def excess(budget: Budget, values: dict[str, np.ndarray]) -> np.ndarray:
    """[K] how far nets of these costs are outside the budget: the sum of the relative excesses, 0 inside."""
    total = np.zeros(len(next(iter(values.values()), ())))
    for name, (low, high) in budget.items():
        total += (np.maximum(low - values[name], 0) + np.maximum(values[name] - high, 0)) / max(high, 1)
    return total


def describe(budget: Budget) -> str:
    """The budget in words, for a message."""
    return " and ".join(f"search.{name} [{low:,}, {high:,}]" for name, (low, high) in budget.items())

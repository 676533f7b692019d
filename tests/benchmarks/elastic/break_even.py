"""Cost against the number of deployed networks: when does the elastic training, paid once, pay off?

All methods of the comparison cost the same for its number of budgets, so the lines of cost cross there by design.
What it says about accuracy needs a second point: uniform pruning of a single network with all that the elastic method
needs for one network. Between the two, the accuracy of pruning is taken as linear in the logarithm of its cost.
"""
# N number of networks

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.elastic.jobs import ALONE, Row

PRUNED = "uniform"


@dataclass(frozen=True)
class Line:
    """Cost of N networks in MACs: ``fixed`` + N * ``each``."""

    fixed: float
    each: float

    def at(self, count: float) -> float:
        """Return the cost of some networks."""
        return self.fixed + count * self.each

    def crossing(self, other: Line) -> float:
        """Return the number of networks at which both cost the same; infinite if the lines never meet."""
        gap = self.fixed - other.fixed
        return gap / (other.each - self.each) if other.each != self.each else math.copysign(math.inf, gap)


@dataclass(frozen=True)
class BreakEven:
    """Lines of cost, means over the seeds, and the break-even points.

    Attributes:
        elastic: The elastic method.
        direct: The same without fine-tuning.
        pruned: Uniform pruning with the epochs of the comparison.
        alone: Uniform pruning with the epochs of a single network.
        by_cost: Number of networks at which ``elastic`` and ``pruned`` cost the same.
        by_accuracy: At each budget, the number at which pruning of equal accuracy costs the same; 1: it is worse even
            alone; infinite: it is as good with the epochs of the comparison.
    """

    elastic: Line
    direct: Line
    pruned: Line
    alone: Line
    by_cost: float
    by_accuracy: dict[str, float]


def compute(rows: Sequence[Row]) -> BreakEven | None:
    """Return the lines and points of all complete seeds; None without any."""
    seeds = [seed for seed in sorted({row["seed"] for row in rows}) if _complete(rows, seed)]
    found = [_of_seed(rows, seed) for seed in seeds]
    if not found:
        return None
    lines = [Line(*np.mean([[line.fixed, line.each] for line in each], 0)) for each in zip(*found, strict=True)]
    elastic, direct, pruned, alone = lines
    chosen = [row for row in rows if row["seed"] in seeds]
    budgets = [row["budget"] for row in _of(chosen, seeds[0], "elastic")]
    points = {budget: _by_accuracy(chosen, budget, elastic.fixed) for budget in budgets}
    return BreakEven(elastic, direct, pruned, alone, elastic.crossing(pruned), points)


def _complete(rows: Sequence[Row], seed: int) -> bool:
    done = {(row["what"], row["budget"]) for row in rows if row["kind"] == "network" and row["seed"] == seed}
    budgets = {budget for _, budget in done}
    return bool(done) and done >= {(what, budget) for what in ("elastic", PRUNED, ALONE) for budget in budgets}


def _of(rows: Sequence[Row], seed: int, method: str) -> list[Row]:
    return [row for row in rows if (row["kind"], row["seed"], row["what"]) == ("network", seed, method)]


def _of_seed(rows: Sequence[Row], seed: int) -> list[Line]:
    """Return the lines of elastic, direct, pruned and alone."""
    search = next(row for row in rows if (row["kind"], row["seed"], row["what"]) == ("search", seed, "elastic"))
    once = search["compute"]["importance"] + search["compute"]["training"]
    scores = float(np.mean([*search["compute"]["scores"].values()]))
    tuned, pruned, alone = (
        float(np.mean([row["own"] for row in _of(rows, seed, method)])) for method in ("elastic", PRUNED, ALONE)
    )
    shared = _of(rows, seed, PRUNED)[0]["shared"]
    return [Line(once, scores + tuned), Line(once, scores), Line(shared, pruned), Line(shared, alone)]


def _by_accuracy(rows: Sequence[Row], budget: str, fixed: float) -> float:
    """Return the number of networks from which elastic training pays, all of one budget; from means over the seeds.

    Args:
        rows: The rows of the record.
        budget: The budget.
        fixed: What the elastic method costs before the first network.
    """
    mine = [row for row in rows if row["kind"] == "network" and row["budget"] == budget]

    def mean(method: str, key: str) -> float:
        return float(np.mean([row[key] for row in mine if row["what"] == method]))

    goal, few, many = (mean(method, "top1") for method in ("elastic", PRUNED, ALONE))
    if goal <= few:
        return math.inf
    if goal > many:
        return 1.0
    share = (goal - few) / (many - few)
    each = math.exp((1 - share) * math.log(mean(PRUNED, "own")) + share * math.log(mean(ALONE, "own")))
    return Line(fixed, mean(ALONE, "limit") - fixed).crossing(Line(mean(PRUNED, "shared"), each))

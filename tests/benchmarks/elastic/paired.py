"""Paired differences of the elastic method to each other one, and their tests.

The units are the seeds: three budgets of a seed share a supernet, so they are not independent. Methods are compared
with Holm's correction.
"""
# S seeds, B budgets

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.05
Table = dict[tuple[int, str], float]  # (seed, budget) -> accuracy


@dataclass(frozen=True)
class Difference:
    """Mean difference of the elastic method to another one over seeds, in points of accuracy.

    Attributes:
        mean: Mean.
        low: Lower end of the interval, at the level that Holm's procedure gives this method; nan for one seed.
        high: Upper end.
        p: Holm's adjusted p-value; nan for one seed.
        seeds: Number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def verdict(self) -> str:
        """What the test says about the elastic method."""
        if self.seeds < 2:
            return "not tested"
        if self.p >= LEVEL:
            return "tie"
        return "better" if self.mean > 0 else "worse"

    @property
    def adjusted(self) -> str:
        """The p-value for a table."""
        return "" if math.isnan(self.p) else f"{self.p:.3f}"

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.low:+.2f}, {self.high:+.2f}]"
        return f"{self.mean:+.2f}{interval}"


def accuracies(rows: Iterable[Mapping[str, Any]], method: str, key: str) -> Table:
    """Return the accuracies of a method in %; ``key`` is ``top1`` or ``before``."""
    return {
        (row["seed"], row["budget"]): 100 * row[key]
        for row in rows
        if row["what"] == method and row.get(key) is not None
    }


def per_seed(ours: Table, other: Table, budgets: Iterable[str]) -> np.ndarray:
    """Return the differences of each seed that has all budgets, mean of the budgets, [S]."""
    budgets = list(budgets)
    seeds = sorted({seed for seed, _ in ours})
    pairs = [[(seed, budget) for budget in budgets] for seed in seeds]
    whole = [cells for cells in pairs if all(cell in ours and cell in other for cell in cells)]
    return np.array([np.mean([ours[cell] - other[cell] for cell in cells]) for cells in whole])


def t_test(values: np.ndarray) -> tuple[float, float]:
    """Return the standard error of the mean and the two-sided p-value of a mean of 0; nan for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return 0.0, float(values.mean() == 0)
    return error, float(2 * stats.t.sf(abs(values.mean()) / error, len(values) - 1))


def compare(found: Mapping[str, np.ndarray]) -> dict[str, Difference]:
    """Test the differences [S] to several methods with Holm's correction.

    The smallest p-value is tested at level / m, the next one at level / (m - 1), and so on to the first one that is
    not significant. That one and all later ones have intervals of its level. So an interval excludes 0 exactly if the
    test is significant. One seed has a mean, but no test.
    """
    tests = {name: t_test(values) for name, values in found.items() if len(values) > 1}
    single = {name: float(values[0]) for name, values in found.items() if len(values) == 1}
    result = {name: Difference(mean, math.nan, math.nan, math.nan, 1) for name, mean in single.items()}
    adjusted, level = 0.0, LEVEL
    for i, name in enumerate(sorted(tests, key=lambda name: tests[name][1])):
        (error, p), values = tests[name], found[name]
        if adjusted < LEVEL:
            level = LEVEL / (len(tests) - i)
        adjusted = min(1.0, max(adjusted, p * (len(tests) - i)))
        width = error * float(stats.t.isf(level / 2, len(values) - 1))
        mean = float(values.mean())
        result[name] = Difference(mean, mean - width, mean + width, adjusted, len(values))
    return {name: result[name] for name in found if name in result}

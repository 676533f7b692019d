"""Whole searches: the accuracy of the networks that they end with, at equal compute.

A result is the mean accuracy of the trainings of a network that ends a search. Methods are compared seed by seed; a
method without randomness is compared with every seed.
"""
# S seeds of a search, R trainings of a network, I validation images, K resamples

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.benchmarks.fidelity.agreement import RESAMPLES, Estimate, estimate
from tests.benchmarks.fidelity.jobs import pick_name
from tests.benchmarks.fidelity.record import Record, unpack

METHODS = {
    "supernet, evolution, finalists": "a",
    "supernet, evolution": "b",
    "supernet, random search, finalists": "c",
    "supernet, random search": "c, no finalists",
    "supernet, scores alone, finalists": "i",
    "supernet, scores alone": "i, no finalists",
    "random networks, halving, 32": "d",
    "random networks, halving, 96": "d",
    "first release": "f",
    "regression": "h, no finalists",
    "regression, finalists": "h",
}  # of the plan; those of "by hand" and "rules" have many names
SEARCHES = {
    ("supernet", "ga"): "evolution", ("supernet", "random"): "random search", ("scores", "ga"): "scores alone",
}  # fmt: skip
OURS = "supernet, evolution, finalists"
NOTES = """Accuracy on the validation images of the network that a search ends with, trained alone: the mean and range
over the seeds of the search. U: compute before that training, in trainings of one network of average cost."""
DIFFERENCES = """Differences of accuracy in %, paired by the seed of the search. The intervals resample seeds, trainings
and validation images."""


@dataclass(frozen=True)
class End:
    """The end of a search: a network and the compute until then."""

    method: str
    seed: int | None  # None: the method has no randomness
    spec: dict[str, Any]
    units: float


@dataclass(frozen=True)
class Method:
    """Results of a method within one budget.

    Attributes:
        letter: Name in the plan.
        units: Compute of a search, mean of the seeds.
        correct: Seed of the search -> [R, I], 1 where a training classifies an image correctly.
        fixed: The method has no randomness.
    """

    letter: str
    units: float
    correct: dict[int, np.ndarray]
    fixed: bool

    @property
    def accuracies(self) -> list[float]:
        """Mean accuracy of each seed."""
        return [float(correct_RI.mean()) for correct_RI in self.correct.values()]

    def of(self, seed: int) -> np.ndarray | None:
        """Return the results of a seed [R, I], or None if they are not complete."""
        return next(iter(self.correct.values())) if self.fixed else self.correct.get(seed)


def ends(row: dict[str, Any]) -> Iterator[End]:
    """Yield the networks that a search ends with. One job runs several methods that share a supernet."""
    result, seed, name = row["result"], row["seed"], row["what"]["method"]
    if name in ("supernet", "scores"):
        first = result["supernet_units"] + result.get("fitting_units", 0.0)
        for (method, algorithm), label in SEARCHES.items():
            if method == name:
                found = result[algorithm]
                units, finalists = first + found["scoring_units"], found["finalists"]
                yield End(f"supernet, {label}", seed, found["pick"], units)
                yield End(f"supernet, {label}, finalists", seed, finalists["pick"], units + finalists["units"])
    elif name == "first release":
        yield End(name, seed, result["pick"], result["supernet_units"] + result["scoring_units"])
    elif name == "regression":
        yield End(name, seed, result["pick"], result["fitting_units"])
        finalists = result["finalists"]
        yield End(f"{name}, finalists", seed, finalists["pick"], result["fitting_units"] + finalists["units"])
    elif name == "random halving":
        for count, found in result.items():
            yield End(f"random networks, halving, {count}", seed, found["pick"], found["units"])
    else:
        for rule, found in result.items():
            yield End(f"{name}: {rule}", seed if name == "rules" else None, found["pick"], 0.0)


def budgets(record: Record) -> list[tuple[float, float]]:
    """Return the budgets of the searches in the record, largest first."""
    return sorted({tuple(row["what"]["macs"]) for row in record.of("search")}, reverse=True)


def methods(record: Record, budget: tuple[float, float]) -> dict[str, Method]:
    """Return the methods whose networks are trained, in the order of the plan."""
    grouped: dict[str, list[End]] = {}
    for row in record.of("search"):
        if tuple(row["what"]["macs"]) == budget:
            for end in ends(row):
                grouped.setdefault(end.method, []).append(end)
    order = sorted(grouped, key=lambda name: (_letter(name), name))
    found = {name: _method(record, name, grouped[name]) for name in order}
    return {name: method for name, method in found.items() if method.correct}


def _method(record: Record, name: str, searches: list[End]) -> Method:
    correct = {end.seed or 0: found for end in searches if (found := _trained(record, end.spec)) is not None}
    return Method(_letter(name), float(np.mean([end.units for end in searches])), correct, searches[0].seed is None)


def _letter(name: str) -> str:
    return METHODS.get(name, "e" if name.startswith("by hand") else "g")


def _trained(record: Record, spec: dict[str, Any]) -> np.ndarray | None:
    """Return which images the trainings of a network classify correctly, [R, I]; None before the second training."""
    prefix = f"pick {pick_name(spec)}, seed "
    rows = [row for row in record.of("net") if row["job"].startswith(prefix)]
    if len(rows) < 2:
        return None
    return np.stack([unpack(row["correct"]) for row in sorted(rows, key=lambda row: row["seed"])])


def difference(ours: Method, other: Method) -> Estimate | None:
    """Return the difference of accuracy of two methods in %, paired by seed; None without a common seed."""
    pairs = [(mine, its) for seed, mine in ours.correct.items() if (its := other.of(seed)) is not None]
    if not pairs:
        return None
    rng, images = np.random.default_rng(0), pairs[0][0].shape[1]
    gap_SI = np.array([mine.mean(0) - its.mean(0) for mine, its in pairs])
    resampled = np.empty(RESAMPLES)
    for k in range(RESAMPLES):
        drawn = rng.integers(0, len(pairs), len(pairs))
        gap_I = np.mean([_again(pairs[s][0], rng) - _again(pairs[s][1], rng) for s in drawn], 0)
        resampled[k] = gap_I[rng.integers(0, images, images)].mean()
    return estimate(100 * gap_SI.mean(), 100 * resampled)


def _again(correct_RI: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the mean [I] over resampled trainings."""
    return correct_RI[rng.integers(0, len(correct_RI), len(correct_RI))].mean(0)


def table(found: dict[str, Method]) -> list[dict[str, Any]]:
    """Return a row for each method."""
    return [
        {
            "": method.letter, "method": name, "seeds": "no randomness" if method.fixed else len(method.correct),
            "U": f"{method.units:.1f}", "accuracy": f"{100 * np.mean(method.accuracies):.2f}",
            "range": f"{100 * min(method.accuracies):.2f} ... {100 * max(method.accuracies):.2f}",
        }
        for name, method in found.items()
    ]  # fmt: skip


def claims(found: dict[str, Method]) -> list[dict[str, Any]]:
    """Return the difference of our method to each other one, and whether its interval excludes 0."""
    rows = []
    for name, method in found.items():
        if name != OURS and OURS in found and (gap := difference(found[OURS], method)) is not None:
            verdict = "better" if gap.low > 0 else "worse" if gap.high < 0 else "open"
            rows.append({"a against": f"{method.letter}: {name}", "difference": str(gap), "a is": verdict})
    return rows

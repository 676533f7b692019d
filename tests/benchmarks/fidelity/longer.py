"""Check whether the subnets are trained long enough: does doubling the steps change their order more than a seed does?

Trainings of different seeds are compared in both cases, so both contain the noise of two trainings.
"""
# n nets, R normal trainings of each, S longer ones, K resamples

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from tests.benchmarks.fidelity import agreement
from tests.benchmarks.fidelity.agreement import Estimate
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.tables import table
from tests.benchmarks.fidelity.truth import Truth, trainings


@dataclass(frozen=True)
class Longer:
    """Accuracies of the subnets that were trained twice as long, too.

    Attributes:
        names: The subnets.
        patch_n: Their patch sizes.
        normal: Accuracies [n] by seed.
        longer: Accuracies [n] of twice the steps by seed.
    """

    names: list[str]
    patch_n: np.ndarray
    normal: dict[int, np.ndarray]
    longer: dict[int, np.ndarray]

    def tau(self, like: np.ndarray, kind: str) -> Estimate:
        """Return the mean tau between trainings of different seeds.

        Args:
            like: [n] labels; only pairs with equal labels count.
            kind: "normal": of two normal trainings, "longer": of a longer with a normal one, "difference" of these.
        """
        normal = list(combinations(self.normal.values(), 2))
        longer = [(a, b) for s, a in self.longer.items() for t, b in self.normal.items() if s != t]

        def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
            return lambda w: np.mean([agreement.tau(a, b, w, like) for a, b in pairs], 0)

        found = {"normal": mean(normal), "longer": mean(longer)}
        found["difference"] = lambda w: found["longer"](w) - found["normal"](w)
        return agreement.over_nets(found[kind], len(self.names))

    @property
    def gain_n(self) -> np.ndarray:
        """Gain of accuracy by twice the steps, from the means over the seeds."""
        return np.mean(list(self.longer.values()), 0) - np.mean(list(self.normal.values()), 0)


def read(record: Record, truth: Truth) -> Longer | None:
    """Return the trainings of twice the steps with the seeds that all of them have, None without two subnets."""
    found = {name: rows for name, rows in trainings(record, "longer").items() if name in truth.names}
    if len(found) < 2:
        return None
    names = sorted(found)
    seeds = sorted(set.intersection(*(set(rows) for rows in found.values())))
    at = [truth.names.index(name) for name in names]
    normal = dict(zip(truth.seeds, truth.values_Rn[:, at], strict=True))
    longer = {seed: np.array([found[name][seed]["accuracy"] for name in names]) for seed in seeds}
    return Longer(names, truth.patch_n[at], normal, longer) if longer else None


def report(record: Record, truth: Truth) -> str:
    """Return the tables and the verdict."""
    of = read(record, truth)
    if of is None or len(truth.seeds) == 1:
        return "Not measured yet: needs two subnets trained twice as long, and two seeds."
    return f"{verdict(of)}\n\n{table(orders(of))}\n\n{spread(of, truth)}\n\n{table(rows(of))}"


def orders(of: Longer) -> list[dict[str, Any]]:
    """Return tau of longer with normal trainings and of normal ones with each other, on the same subnets."""
    groups = {"all pairs": 0 * of.patch_n, "pairs with one patch size": of.patch_n}
    kinds = {
        "two normal trainings": "normal", "a longer and a normal training": "longer",
        "the difference": "difference",
    }  # fmt: skip
    return [
        {"tau of different seeds": name} | {group: of.tau(like, kind) for group, like in groups.items()}
        for name, kind in kinds.items()
    ]


def verdict(of: Longer) -> str:
    """Return whether doubling the steps changes the order more than another seed does."""
    found = of.tau(0 * of.patch_n, "difference")
    criterion = (
        f"Criterion: twice the steps change the order of {len(of.names)} subnets no more than another seed does."
    )
    if found.high < 0:
        return f"{criterion}\nIt is **not** met: the difference of tau, {found}, is below 0."
    return f"{criterion}\nNothing contradicts it: the difference of tau is {found}."


def spread(of: Longer, truth: Truth) -> str:
    """Return the standard deviation of the gains next to that which the noise of the seeds explains.

    An equal gain of all subnets does not change their order.
    """
    at = [truth.names.index(name) for name in of.names]
    noise = truth.values_Rn[:, at].var(0, ddof=1).mean()
    more = np.var(list(of.longer.values()), 0, ddof=1).mean() if len(of.longer) > 1 else noise
    expected = (noise / len(of.normal) + more / len(of.longer)) ** 0.5
    return (
        f"Twice the steps gain {100 * of.gain_n.mean():+.2f} % on average. The gain differs between subnets with a\n"
        f"standard deviation of {100 * of.gain_n.std(ddof=1):.2f}; the noise of the seeds alone gives "
        f"{100 * expected:.2f}."
    )


def rows(of: Longer) -> list[dict[str, Any]]:
    """Return a row for each subnet."""
    before, after = (np.mean(list(part.values()), 0) for part in (of.normal, of.longer))
    return [
        {
            "subnet": name, "patch": of.patch_n[i], "accuracy, %": f"{100 * before[i]:.2f}",
            "of twice the steps": f"{100 * after[i]:.2f}", "gain": f"{100 * of.gain_n[i]:+.2f}",
        }
        for i, name in enumerate(of.names)
    ]  # fmt: skip

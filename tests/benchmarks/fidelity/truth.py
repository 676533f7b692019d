"""Results of the subnets trained alone, and the agreement of scores and simple rules with them."""
# n nets, R seeds

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from tests.benchmarks.fidelity import agreement, study
from tests.benchmarks.fidelity.agreement import Estimate
from tests.benchmarks.fidelity.record import Record

WITHIN = "within a patch size"
GROUPS = ("all", "equal", WITHIN)  # all subnets, those of equal cost, all subnets but only pairs with one patch size


class Truth:
    """Results of the subnets trained alone, for subnets with all seeds finished.

    Args:
        record: The record of the study.
        by: "accuracy" on val, or "loss": the negative loss on val, which separates subnets that classify nearly all
            images correctly.
    """

    def __init__(self, record: Record, by: Literal["accuracy", "loss"] = "accuracy") -> None:
        rows = {row["job"]: row for row in record.of("net") if row["job"].startswith(("spread ", "equal "))}
        seeds = sorted({row["seed"] for row in rows.values()})
        known = sorted({job.rpartition(", seed")[0] for job in rows}, key=lambda name: (name.startswith("equal"), name))
        of = {name: [rows.get(f"{name}, seed {seed}") for seed in seeds] for name in known}
        whole = {name: group for name, group in of.items() if all(group)}
        self.names = list(whole)
        self.seeds_Rn = np.array([[row[by] for row in group] for group in whole.values()]).T * (
            -1 if by == "loss" else 1
        )
        self.mean_n = self.seeds_Rn.mean(0)
        first = [group[0] for group in whole.values()]
        self.macs_n = np.array([row["macs"] for row in first])
        self.patch_n = np.array([row["what"]["patch_size"] for row in first])
        self.depth_n = np.array([len(row["what"]["layers"]) for row in first])

    def at(self, group: str) -> np.ndarray:
        """Return the indices of the subnets of a group."""
        return np.flatnonzero([group != "equal" or net.startswith("equal") for net in self.names])

    def tau(self, group: str, scores: np.ndarray, less: np.ndarray | None = None) -> Estimate:
        """Return Kendall's tau of scores [rows, n] with the truth in a group, minus that of ``less`` if given."""
        at = self.at(group)
        return agreement.agreement(
            self._measure(group), scores[:, at], self.mean_n[at], None if less is None else less[:, at]
        )

    def more(self, group: str, scores: dict[int, np.ndarray], less: dict[int, np.ndarray]) -> Estimate:
        """Return the difference of tau between two sets of scores by seed, over the seeds that both have."""
        seeds = [seed for seed in scores if seed in less]
        return self.tau(group, np.array([scores[s] for s in seeds]), np.array([less[s] for s in seeds]))

    def _measure(self, group: str) -> agreement.Measure:
        return partial(agreement.tau, like=self.patch_n) if group == WITHIN else agreement.tau

    def seed_tau(self, group: str) -> Estimate:
        """Return tau between two trainings of each subnet."""
        at = self.at(group)
        return agreement.agreement(self._measure(group), self.seeds_Rn[:1, at], self.seeds_Rn[1, at])

    def oracle(self, group: str) -> Estimate:
        """Return the tau of a perfect oracle: the noise of the truth does not allow more."""
        at = self.at(group)
        return agreement.oracle(self.seeds_Rn[:, at], self.patch_n[at] * (group == WITHIN))

    def rules(self) -> dict[str, np.ndarray]:
        """Return the scores [n] of rules that need no supernet."""
        return {
            "the larger patch": self.patch_n,
            "more layers": self.depth_n,
            "more MACs": self.macs_n,
            "the larger patch, then more layers": 100 * self.patch_n + self.depth_n,
        }


def supernets(record: Record) -> list[str]:
    """Return the supernet variants in the order of their first completion."""
    return list(dict.fromkeys(row["what"] for row in record.of("supernet")))


def scores_of(record: Record, truth: Truth, variant: str, way: str = "accuracy") -> dict[int, np.ndarray]:
    """Return the scores [n] of the subnets in the supernets of a variant, by seed."""
    rows = [row for row in record.of("supernet") if row["what"] == variant and way in row["scores"]]
    return {row["seed"]: np.array([row["scores"][way][name] for name in truth.names]) for row in rows}


def base_of(record: Record) -> str:
    """Return the variant that the others are compared with. Records of older versions use the first one."""
    names = supernets(record)
    return study.BASE if study.BASE in names else names[0]


def reference(record: Record, truth: Truth, variant: str) -> dict[int, np.ndarray]:
    """Return the base scores for comparison with a variant, with the same positions for misplaced widths."""
    base = base_of(record)
    placed = scores_of(record, truth, base, study.AT_RANDOM) if variant == "defect: misplaced widths" else {}
    return placed or scores_of(record, truth, base)


def stacked(scores: dict[int, np.ndarray]) -> np.ndarray:
    """Return the scores as one array [R, n]."""
    return np.array(list(scores.values()))

"""Results of the subnets trained alone, and the agreement of scores and simple rules with them."""
# n nets, R trainings of each, S supernets

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any, Literal

import numpy as np

from tests.benchmarks.fidelity import agreement
from tests.benchmarks.fidelity.agreement import Estimate
from tests.benchmarks.fidelity.record import Record
from vitas_ds.arch import cost
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.errors import UserError

EQUAL, WITHIN, ALL = "equal MACs", "equal MACs and patch", "all"
GROUPS = (EQUAL, WITHIN, ALL)  # WITHIN: the subnets of equal MACs, but only pairs with one patch size
By = Literal["accuracy", "loss"]


class Truth:
    """Results of the subnets trained alone.

    A seed counts once half of the subnets have it; subnets that lack one of these seeds are left out.

    Args:
        record: The record of the study.
        by: "accuracy" on the validation images, or "loss": the negative loss, to which every image contributes.

    Raises:
        UserError: The record has no subnets, or subnets of several studies under one name.
    """

    def __init__(self, record: Record, by: By = "accuracy") -> None:
        trained = trainings(record, "net")
        for name, group in trained.items():
            if any(row["what"] != next(iter(group.values()))["what"] for row in group.values()):
                raise UserError(f"{record.path}: {name} is not the same subnet in all rows; use one file per study")
        if len({row["steps"] for group in trained.values() for row in group.values()}) > 1:
            raise UserError(f"{record.path}: subnets trained for different numbers of steps; use one file per study")
        seeds = _seeds(trained)
        whole = {name: [group[s] for s in seeds] for name, group in trained.items() if all(s in group for s in seeds)}
        if sum(name.startswith("equal") for name in whole) < 2:
            raise UserError(f"{record.path}: no subnets trained alone; run the part truth first")
        self.seeds, self.names = seeds, sorted(whole, key=lambda name: (name.startswith("spread"), name))
        rows = [whole[name] for name in self.names]
        self.values_Rn = np.array([[row[by] for row in group] for group in rows]).T * (-1 if by == "loss" else 1)
        self.mean_n = self.values_Rn.mean(0)
        seconds = [[row.get("training_seconds", row["seconds"]) / row["steps"] for row in group] for group in rows]
        self.step_n = np.median(seconds, 1)  # CPU seconds of a training step
        self.specs = [spec_from_dict(group[0]["what"]) for group in rows]
        self.table = WidthTable.from_specs(self.specs)
        self.macs_n = np.array([group[0]["macs"] for group in rows])

    @property
    def patch_n(self) -> np.ndarray:
        """Patch sizes."""
        return self.table.patch_size

    @property
    def depth_n(self) -> np.ndarray:
        """Numbers of layers."""
        return (self.table.num_heads > 0).sum(1)

    @property
    def heads_n(self) -> np.ndarray:
        """Mean numbers of heads of a layer."""
        return self.table.num_heads.sum(1) / self.depth_n

    def at(self, group: str) -> np.ndarray:
        """Return the indices of the subnets of a group."""
        return np.flatnonzero([group == ALL or name.startswith("equal") for name in self.names])

    def like(self, group: str) -> np.ndarray:
        """Return the labels of the subnets of a group whose pairs count."""
        return self.patch_n[self.at(group)] * (group == WITHIN)

    def tau(self, group: str, scores: np.ndarray, less: np.ndarray | None = None) -> Estimate:
        """Return Kendall's tau of scores [S, n] with the truth in a group, minus that of ``less`` if given."""
        at = self.at(group)
        measure = partial(agreement.tau, like=self.like(group))
        return agreement.agreement(measure, scores[:, at], self.mean_n[at], None if less is None else less[:, at])

    def share(self, group: str, scores: np.ndarray) -> Estimate:
        """Return tau of scores [S, n] relative to that of a perfect predictor."""
        at = self.at(group)
        return agreement.share_of_ceiling(scores[:, at], self.values_Rn[:, at], self.like(group))

    def seed_tau(self, group: str) -> Estimate:
        """Return tau between two trainings of each subnet, the mean over all pairs of seeds."""
        values_Rn, like = self.values_Rn[:, self.at(group)], self.like(group)
        pairs = list(combinations(values_Rn, 2))
        return agreement.over_nets(
            lambda w: np.mean([agreement.tau(a, b, w, like) for a, b in pairs], 0), values_Rn.shape[1]
        )

    def ceiling(self, group: str, trainings: int | None = None) -> Estimate:
        """Return tau of a perfect predictor with the mean of some trainings (None: as many as there are)."""
        return agreement.oracle(self.values_Rn[:, self.at(group)], self.like(group), trainings)

    def noise(self, group: str) -> float:
        """Return the standard deviation between the trainings of a subnet."""
        return float(self.values_Rn[:, self.at(group)].var(0, ddof=1).mean() ** 0.5)

    def rules(self) -> dict[str, np.ndarray]:
        """Return the scores [n] of rules that need no supernet. A negative tau means that the opposite is better."""
        return {
            "more layers": self.depth_n,
            "larger embed_dim": self.table.embed_dim,
            "more heads in a layer": self.heads_n,
            "larger patches": self.patch_n,
            "larger patches, then more layers": 100 * self.patch_n + self.depth_n,
            "more MACs": self.macs_n,
            "more parameters": cost.params(self.table),
            "more activation memory": cost.activations(self.table),
            "more time for a training step": self.step_n,
        }


def trainings(record: Record, kind: Literal["net", "longer"]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the rows of the subnets of the study, by name and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in record.of(kind):
        if row["job"].startswith(("spread ", "equal ")):
            found.setdefault(row["job"].partition(",")[0], {})[row["seed"]] = row
    return found


def _seeds(trained: dict[str, dict[int, Any]]) -> list[int]:
    counts: dict[int, int] = {}
    for group in trained.values():
        for seed in group:
            counts[seed] = counts.get(seed, 0) + 1
    return sorted(seed for seed, count in counts.items() if 2 * count >= len(trained))

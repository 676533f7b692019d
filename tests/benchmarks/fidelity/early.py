"""Do shorter trainings of the subnets rank them as the whole training does? They are what finalists rely on.

The results on the search images at a step are compared with the results of another seed at the end, because both ends
of one training share its noise.
"""
# n nets, R seeds

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np

from tests.benchmarks.fidelity import agreement
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import GROUPS, Truth, trainings

SCORES = {"accuracy": 1, "loss": -1}  # higher is better after multiplication


def table(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return a row for each part of the training and each score. Empty with one seed, or without learning curves."""
    rows = []
    for step in steps(record, truth) if len(truth.seeds) > 1 else ():
        whole = next(iter(trainings(record, "net")[truth.names[0]].values()))["steps"]
        for score in SCORES:
            early_Rn = scores_at(record, truth, step, score)
            rows.append({
                "part of the training": f"{step / whole:.3g}", "score": score,
                **{f"tau, {group}": _tau(truth, group, early_Rn) for group in GROUPS},
            })  # fmt: skip
    return rows


def steps(record: Record, truth: Truth) -> list[int]:
    """Return the steps that all subnets and seeds have, without 0."""
    found = trainings(record, "net")
    curves = [set(found[name][seed].get("curve", {})) for name in truth.names for seed in truth.seeds]
    return sorted(step for step in map(int, set.intersection(*curves)) if step)


def scores_at(record: Record, truth: Truth, step: int, score: str) -> np.ndarray:
    """Return the results [R, n] after a step, higher is better."""
    found = trainings(record, "net")
    return SCORES[score] * np.array(
        [[found[name][seed]["curve"][str(step)][score] for name in truth.names] for seed in truth.seeds]
    )


def _tau(truth: Truth, group: str, early_Rn: np.ndarray) -> agreement.Estimate:
    """Return the mean tau of a part of one training with the end of another, over all ordered pairs of seeds."""
    at, like = truth.at(group), truth.like(group)
    pairs = list(permutations(range(len(truth.seeds)), 2))
    return agreement.over_nets(
        lambda w: np.mean([agreement.tau(early_Rn[s, at], truth.values_Rn[t, at], w, like) for s, t in pairs], 0),
        len(at),
    )

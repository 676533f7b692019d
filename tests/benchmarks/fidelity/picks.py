"""What is lost by picking nets by their scores, beside picking blindly."""
# n nets

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.fidelity.agreement import random_regret, regret
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import Truth, scores_of, stacked, supernets

NOTES = """Of the 1 or 5 nets of highest score the best is taken: what it lacks to the best of all, in % of accuracy,
beside what nets drawn blindly lack. The best of many noisy means lies above that net's worth, so that every figure is
larger than the true loss. What ties in a rule is ordered at random."""


def table(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """What each of the supernets, and what rules without one, lose; of rules the mean over many orders of what ties."""
    nudges = np.random.default_rng(0).random((200, len(truth.names))) / 1000
    scores = {name: row + nudges for name, row in truth.rules().items()}
    scores |= {name: stacked(scores_of(record, truth, name)) for name in supernets(record)}
    rows = [{"pick": "blind"} | _regrets(truth, lambda at, k: random_regret(truth.mean_n[at], k))]
    for name, row in scores.items():
        rows.append({"pick": name} | _regrets(truth, lambda at, k, row=row: regret(row[:, at], truth.mean_n[at], k)))
    return rows


def _regrets(truth: Truth, of: Callable[[np.ndarray, int], float]) -> dict[str, str]:
    cases = [(group, k) for group in ("all", "equal") for k in (1, 5)]
    return {f"of {k}, {group}": f"{abs(100 * of(truth.at(group), k)):.2f}" for group, k in cases}

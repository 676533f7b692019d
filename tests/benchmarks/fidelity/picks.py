"""Regret of picking subnets by their scores, compared with picking at random."""
# n nets

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.fidelity.agreement import random_regret, regret
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.truth import Truth, scores_of, stacked, supernets

NOTES = """The best of the 1 or 5 top-scored subnets, compared with the best of all: the difference in % of accuracy.
*blind* draws the subnets at random. The best of many noisy means overestimates that subnet, and every value is larger
than the true regret. Ties of a rule are ordered at random."""


def table(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return the regret of each supernet and each rule. For rules, it is the mean over many random orders of ties."""
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

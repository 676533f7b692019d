"""Regret of picking subnets by their scores, compared with picking at random."""
# n nets

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.fidelity.agreement import random_regret, regret
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.scores import scored, scores_of, stacked, supernets
from tests.benchmarks.fidelity.truth import ALL, EQUAL, Truth

CASES = [(group, k) for group in (EQUAL, ALL) for k in (1, 5)]
NOTES = """The best of the 1 or 5 top-scored subnets, compared with the best of all: the difference in % of accuracy.
*blind* draws the subnets at random. The best of many noisy means overestimates that subnet, and every value is larger
than the true regret. Ties of a rule are ordered at random."""


def table(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return the regret of each supernet and each rule. For rules, it is the mean over many random orders of ties."""
    ties = np.random.default_rng(0).random((200, len(truth.names)))
    scores = {name: _nudged(row, ties) for name, row in truth.rules().items()}
    scores |= {name: stacked(found) for name in supernets(record) if (found := scores_of(record, truth, name))}
    blind = {_cell(group, k): _percent(random_regret(truth.mean_n[truth.at(group)], k)) for group, k in CASES}
    return [{"pick": "blind"} | blind, *({"pick": name} | _regrets(truth, row) for name, row in scores.items())]


def _regrets(truth: Truth, scores: np.ndarray) -> dict[str, str]:
    found = {}
    for group, k in CASES:
        at = truth.at(group)
        loss = regret(scores[:, at], truth.mean_n[at], k)
        found[_cell(group, k)] = _percent(loss) if scored(truth, group, scores) else ""
    return found


def _nudged(row: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return the ranks of a row with ties in random orders."""
    return (row[:, None] > row).sum(1) + ties


def _cell(group: str, k: int) -> str:
    return f"of {k}, {group}"


def _percent(loss: float) -> str:
    return f"{abs(100 * loss):.2f}"

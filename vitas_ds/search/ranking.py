"""Rank candidates: best candidate, Pareto front, hypervolume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitas_ds.search import algorithms
from vitas_ds.search.scoring.candidate import Candidate, objective_values


@dataclass(frozen=True)
class Result:
    """Result of a search.

    Attributes:
        candidates: All candidates, in the order of scoring.
        best: The candidate with the highest score.
        pareto: The front of score against cost, cheapest first.
    """

    candidates: list[Candidate]
    best: Candidate
    pareto: list[Candidate]


def make_result(candidates: list[Candidate], objectives: Sequence[str] = ()) -> Result:
    """Return the best candidate and the front, among the fully scored ones.

    The front is against the costs named by ``objectives``; without any, against the MACs.
    """
    costs, full = tuple(objectives) or ("macs",), fully_scored(candidates)
    front = [full[i] for i in algorithms.non_dominated(objective_values(full, costs))]
    front.sort(key=lambda c: [c.costs[name] for name in costs])
    return Result(candidates, ranked(full)[0], front)


def fully_scored(candidates: list[Candidate]) -> list[Candidate]:
    """Return the candidates scored on the most images. Scores of candidates that racing dropped are not comparable."""
    images = max(c.images for c in candidates)
    return [c for c in candidates if c.images == images]


def ranked(candidates: list[Candidate]) -> list[Candidate]:
    """Sort candidates, best first. For equal scores, the one with fewer MACs is first, then the earlier one."""
    return sorted(candidates, key=lambda c: (-c.value, c.costs["macs"]))


def hypervolume(candidates: list[Candidate], max_costs: dict[str, float]) -> float:
    """Return the hypervolume of the fully scored candidates.

    It is a share of the box of scores in [0, 1] and costs in [0, ``max_costs``].
    """
    values = objective_values(fully_scored(candidates), tuple(max_costs))
    reference = np.array([0.0, *[1.0] * len(max_costs)])
    return algorithms.hypervolume(values / [1.0, *max_costs.values()], reference)

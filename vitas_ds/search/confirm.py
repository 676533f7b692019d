"""Check the best candidates at the end of a search: measure their latency, score them on all search images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import PS_PER_SECOND
from vitas_ds.search.latency.calibration import LatencyModel
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import Result, fully_scored, make_result, ranked
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.evaluation import Evaluator


@dataclass(frozen=True)
class Confirmed:
    """Result of a search after measuring the latency of its front and its best candidates.

    Attributes:
        result: The result without the dropped candidates.
        latencies: Measured latencies by ``spec.key()``, as the fields of ``best.json``.
        dropped: Candidates that measured outside the budget.
    """

    result: Result
    latencies: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: list[Candidate] = field(default_factory=list)


def confirm(result: Result, problem: SearchProblem, timing: LatencyModel) -> Confirmed:
    """Measure the front and the best candidates, and drop those outside the latency budget.

    The best ones are ``search.top_k``, or all finalists if these are more. Candidates that replace dropped ones are
    measured as well, until all are within the budget. Those that remain are measured with ``search.latency_also``, too.
    A table (``search.latency_table``) may lack candidates: they have only a prediction, and stay.

    Raises:
        UserError: No candidate measures within the budget.
    """
    low, high = problem.budget.get("latency", (0, budgets.MAX_LATENCY))
    candidates, dropped = result.candidates, list[Candidate]()
    count = max(problem.cfg.top_k, problem.cfg.finalists.count)
    while True:
        best = ranked(fully_scored(candidates))[:count]
        measured = list({c.spec: c for c in [*result.pareto, *best]}.values())
        picoseconds = timing.cache.measure([c.spec for c in measured]) * PS_PER_SECOND
        outside = [c for c, ps in zip(measured, picoseconds.tolist(), strict=True) if ps < low or ps > high]
        if not outside:
            timing.measure([c.spec for c in measured])
            latencies = {c.spec.key(): timing.row(c.spec) for c in [*measured, *dropped]}
            return Confirmed(result, {key: row for key, row in latencies.items() if row}, dropped)
        dropped += outside
        specs = {c.spec for c in outside}
        candidates = [c for c in candidates if c.spec not in specs]
        if all(c.images != result.best.images for c in candidates):
            raise UserError(_none_confirmed(dropped, timing, low, high))
        result = make_result(candidates, problem.objectives)


def _none_confirmed(dropped: list[Candidate], timing: LatencyModel, low: int, high: int) -> str:
    picoseconds = timing.cache.measure([c.spec for c in dropped]) * PS_PER_SECOND
    nearest = picoseconds[np.argmin(np.maximum(low - picoseconds, picoseconds - high))]
    return (
        f"{budgets.format_budget({'latency': (low, high)})}: no candidate measures within it; the nearest takes "
        f"{budgets.format_cost('latency', nearest)}, and predictions are off by {timing.predictor.error:.1%} on average"
    )


def rescore(candidates: list[Candidate], evaluator: Evaluator) -> list[Candidate]:
    """Score candidates again with another evaluator (on all search images); return them best first."""
    return ranked(list(evaluator(candidates)))

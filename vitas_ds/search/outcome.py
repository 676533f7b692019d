"""The result of a search within each of its budgets, and the result of all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitas_ds.search.confirm import Confirmed
from vitas_ds.search.ranking import Result, make_result
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.trials.finalists import FinalistsResult


@dataclass(frozen=True)
class Outcome:
    """Result of a search within one budget.

    Attributes:
        limit: The budget in its normal form; empty if ``search.budgets`` is.
        result: All candidates.
        confirmed: The result without candidates that measured outside the budget.
        top: The best candidates, scored on all search images, best first.
        finalists: Result of the trainings, if there were any.
    """

    limit: str
    result: Result
    confirmed: Confirmed
    top: list[Candidate]
    finalists: FinalistsResult | None = None

    def row(self) -> dict[str, Any]:
        """Return the best candidate for ``summary.json``: costs, measured latency, score, and its training."""
        best = self.top[0]
        latency = self.confirmed.latencies.get(best.spec.key(), {})
        score = {"score": best.value, "stderr": best.stderr, "spec": best.spec.to_dict()}
        if best.supernet_score is not None:
            score["supernet_score"] = best.supernet_score
        trained = {} if self.finalists is None else self.finalists.entry(best.spec)
        return {**best.reported_costs(), **latency, **score, **trained}


def combine(outcomes: Sequence[Outcome], objectives: Sequence[str]) -> Outcome:
    """Return the outcome of all budgets together. Its ``top`` has the best candidate of each, most accurate first."""
    if len(outcomes) == 1:
        return outcomes[0]
    confirmed = Confirmed(
        make_result(_distinct([c for o in outcomes for c in o.confirmed.result.candidates]), objectives),
        {key: row for o in outcomes for key, row in o.confirmed.latencies.items()},
        _distinct([c for o in outcomes for c in o.confirmed.dropped]),
    )
    result = make_result(_distinct([c for o in outcomes for c in o.result.candidates]), objectives)
    top = [o.top[0] for o in sorted(outcomes, key=_accuracy, reverse=True)]
    return Outcome("", result, confirmed, _distinct(top), _combine_finalists([o.finalists for o in outcomes]))


def _accuracy(outcome: Outcome) -> float:
    """Return the accuracy of the best candidate after its training, or else its score."""
    best, finalists = outcome.top[0], outcome.finalists
    trained = None if finalists is None else finalists.outcomes.get(best.spec)
    return best.value if trained is None else trained.accuracy


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Return the candidates without repeats: the ranges of budgets may overlap."""
    return list({c.spec: c for c in reversed(candidates)}.values())[::-1]


def _combine_finalists(results: Sequence[FinalistsResult | None]) -> FinalistsResult | None:
    found = [result for result in results if result is not None]
    if not found:
        return None
    best = max(found, key=lambda result: float(result.numbers["accuracy"]))
    sums = {
        name: sum(result.numbers[name] for result in found)
        for name in ("candidates", "macs", "retrainings", "seconds")
    }  # fmt: skip
    pairs = [pair for result in found for pair in result.outcomes.items()]
    outcomes = dict(sorted(pairs, key=lambda pair: pair[1].step))  # the longest training of each
    ranking = _distinct([c for result in found for c in result.ranking])
    return FinalistsResult(ranking, outcomes, best.numbers | sums, found[-1].rows)

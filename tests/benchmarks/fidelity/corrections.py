"""How well do corrected scores rank, by the number of networks that the correction is fitted to?

``vitas_ds.search.trials.correction``, as in a search: a few random subnets are trained alone for a part of the steps,
and the scores of the others are corrected.
"""
# n nets

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.benchmarks.fidelity import agreement, early
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.scores import scores_of, stacked, supernets
from tests.benchmarks.fidelity.truth import EQUAL, Truth
from vitas_ds.search.trials import correction

COUNTS = (8, 12, 16, 24)  # subnets trained alone
SPLITS = 50  # random choices of these subnets
SHARE = 1 / 4  # part of their training
NOTES = """Scores corrected by a ridge regression on genes and score, fitted to some of the subnets of equal MACs, each
trained alone for {steps} steps (one seed, search images): tau of the *other* subnets, mean of {splits} random choices.
The first row corrects nothing but predicts from the genes alone."""


def notes(record: Record, truth: Truth) -> str:
    """Return the text above the table."""
    return NOTES.format(steps=_step(record, truth), splits=SPLITS)


def table(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return tau for no supernet and for each supernet, by the number of subnets. Empty without enough subnets."""
    n = len(truth.at(EQUAL))
    counts = [count for count in COUNTS if n - count >= count / 2]
    if not counts or not early.steps(record, truth):
        return []
    return [
        {"supernet": name or "none"} | {f"{c} subnets": f"{mean_tau(record, truth, name, c):.2f}" for c in counts}
        for name in (None, *supernets(record)) if _scores(record, truth, name) is not None
    ]  # fmt: skip


def mean_tau(record: Record, truth: Truth, supernet: str | None, count: int) -> float:
    """Return the mean tau of corrected scores over random choices of ``count`` subnets trained alone."""
    return float(np.mean([agreement.tau(a, b)[0] for a, b in held_out(record, truth, supernet, count)]))


def held_out(record: Record, truth: Truth, supernet: str | None, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield corrected scores and the truth of the subnets that a correction is not fitted to.

    Args:
        record: The record.
        truth: The truth.
        supernet: A variant, whose first seed counts; None: equal scores, so that only the genes predict.
        count: Number of subnets trained alone.
    """
    at = truth.at(EQUAL)
    specs, truth_n, score_n = [truth.specs[i] for i in at], truth.mean_n[at], _scores(record, truth, supernet)
    assert score_n is not None, supernet
    accuracy_n, rng = early.scores_at(record, truth, _step(record, truth), "accuracy")[0, at], np.random.default_rng(0)
    for _ in range(SPLITS):
        order = rng.permutation(len(at))
        known, others = order[:count], order[count:]
        fitted = correction.fit([specs[i] for i in known], score_n[known], accuracy_n[known])
        yield fitted([specs[i] for i in others], score_n[others]), truth_n[others]


def _scores(record: Record, truth: Truth, supernet: str | None) -> np.ndarray | None:
    """Return the scores of the subnets of equal MACs; None if some have none."""
    at = truth.at(EQUAL)
    if supernet is None:
        return np.zeros(len(at))
    found = scores_of(record, truth, supernet)
    score_n = stacked(found)[0, at] if found else np.full(1, np.nan)
    return score_n if np.isfinite(score_n).all() else None


def _step(record: Record, truth: Truth) -> int:
    """Return the recorded step that is closest to ``SHARE`` of a training."""
    steps = early.steps(record, truth) or [0]
    return min(steps, key=lambda step: abs(step - SHARE * steps[-1]))

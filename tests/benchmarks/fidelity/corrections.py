"""How well do corrected scores rank, by the number of networks that the correction is fitted to?

``vitas_ds.search.trials.correction``, as in a search: a few random subnets are trained alone for a part of the steps,
and the scores of the others are corrected.
"""
# n nets

from __future__ import annotations

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
    """Return a row for no supernet and for each supernet of the first seed. Empty without enough subnets."""
    at = truth.at(EQUAL)
    counts = [count for count in COUNTS if len(at) - count >= count / 2]
    if not counts or not early.steps(record, truth):
        return []
    accuracy_n = early.scores_at(record, truth, _step(record, truth), "accuracy")[0, at]
    rows = [{"supernet": "none"} | _cells(truth, np.zeros(len(at)), accuracy_n, counts)]
    for name in supernets(record):
        found = scores_of(record, truth, name)
        if found and np.isfinite(score_n := stacked(found)[0, at]).all():
            rows.append({"supernet": name} | _cells(truth, score_n, accuracy_n, counts))
    return rows


def _step(record: Record, truth: Truth) -> int:
    """Return the recorded step that is closest to ``SHARE`` of a training."""
    steps = early.steps(record, truth) or [0]
    return min(steps, key=lambda step: abs(step - SHARE * steps[-1]))


def _cells(truth: Truth, score_n: np.ndarray, accuracy_n: np.ndarray, counts: list[int]) -> dict[str, Any]:
    specs, truth_n = [truth.specs[i] for i in truth.at(EQUAL)], truth.mean_n[truth.at(EQUAL)]
    cells = {}
    for count in counts:
        rng, taus = np.random.default_rng(count), []
        for _ in range(SPLITS):
            order = rng.permutation(len(specs))
            known, others = order[:count], order[count:]
            fitted = correction.fit([specs[i] for i in known], score_n[known], accuracy_n[known])
            predicted = fitted([specs[i] for i in others], score_n[others])
            taus.append(float(agreement.tau(predicted, truth_n[others])[0]))
        cells[f"{count} subnets"] = f"{np.mean(taus):.2f}"
    return cells

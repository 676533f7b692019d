"""A regression on the genes of a subnet, fitted to short trainings of other subnets, alone and added to scores.

The prediction of a subnet never uses a training of that subnet (leave-one-out), as in a search that trains a few
random candidates for a short time and predicts the others.
"""
# n nets, F features, R seeds, S supernets

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.fidelity import early
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.scores import scores_of, stacked, supernets
from tests.benchmarks.fidelity.truth import EQUAL, WITHIN, Truth
from vitas_ds.search.trials.correction import genes

RIDGE = 1.0  # penalty of a standardized feature, fixed before the results are known
NOTES = """A ridge regression on patch size, embed_dim, layers, and mean heads, q/k/v and MLP width, fitted to the
accuracy of the other subnets of equal MACs after a part of their training, on the search images. *with* adds the
standardized score of a supernet; *as a feature*, the regression learns its weight instead. The cost is that of the
short trainings of all subnets."""


def table(record: Record, truth: Truth) -> list[dict[str, Any]]:
    """Return tau of the regression for each part of the training, of its sum with the scores of each supernet, and of a
    regression that has these scores as a feature."""
    rows = []
    for step in early.steps(record, truth):
        accuracy_n = early.scores_at(record, truth, step, "accuracy").mean(0)
        predicted_n = predict(truth, accuracy_n)
        rows.append(_row(truth, f"regression on trainings of {step} steps", predicted_n[None]))
        for name in supernets(record):
            if (found := scores_of(record, truth, name)) and np.isfinite(stacked(found)).all():
                both = _standardized(stacked(found), truth) + _standardized(predicted_n[None], truth)
                feature = np.stack([predict(truth, accuracy_n, score_n) for score_n in stacked(found)])
                rows.append(_row(truth, f"{step} steps, with {name}", both, feature))
    return rows


def predict(truth: Truth, accuracy_n: np.ndarray, score_n: np.ndarray | None = None) -> np.ndarray:
    """Return the predicted accuracy [n]; each subnet of equal MACs from the others of equal MACs, NaN elsewhere.

    The scores of a supernet are another feature if they are given.
    """
    at = truth.at(EQUAL)
    x_nF, y_n = genes(truth.table)[at], accuracy_n[at]
    if score_n is not None:
        x_nF = np.column_stack([x_nF, score_n[at]])
    predicted_n = np.full(len(accuracy_n), np.nan)
    for i, net in enumerate(at):
        others = np.arange(len(at)) != i
        predicted_n[net] = fit(x_nF[others], y_n[others])(x_nF[i : i + 1])[0]
    return predicted_n


def fit(x_nF: np.ndarray, y_n: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a ridge regression on standardized features. Returns a function from features [k, F] to predictions [k]."""
    mean_F, std_F = x_nF.mean(0), x_nF.std(0)
    std_F[std_F == 0] = 1
    z_nF = (x_nF - mean_F) / std_F
    weights_F = np.linalg.solve(z_nF.T @ z_nF + RIDGE * np.eye(z_nF.shape[1]), z_nF.T @ (y_n - y_n.mean()))
    return lambda x_kF: y_n.mean() + (x_kF - mean_F) / std_F @ weights_F


def _standardized(scores: np.ndarray, truth: Truth) -> np.ndarray:
    """Return scores [S, n] with mean 0 and standard deviation 1 over the subnets of equal MACs."""
    equal = scores[:, truth.at(EQUAL)]
    spread = equal.std(1, keepdims=True)
    return (scores - equal.mean(1, keepdims=True)) / np.where(spread == 0, 1, spread)


def _row(truth: Truth, name: str, scores: np.ndarray, feature: np.ndarray | None = None) -> dict[str, Any]:
    groups = (EQUAL, WITHIN)
    cells: dict[str, Any] = {"predictor": name} | {f"tau, {group}": truth.tau(group, scores) for group in groups}
    return cells | {f"as a feature, {of}": "" if feature is None else truth.tau(of, feature) for of in groups}

"""Correct the scores of a supernet with the networks that its check has trained alone (``search.check.correct``).

Scores of a supernet may favor a gene: on CIFAR-10 wide networks, although narrow ones are better alone
(docs/cifar10.md). A ridge regression on the genes and the score, fitted to the accuracies of a few networks trained
alone, predicts these accuracies for the others. Ledgers contain the scores as measured.

Importing this module does not import torch.
"""
# n networks, F features: the genes, then the score

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.ridge import Ridge, fit_ridge
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.trials.agreement import Estimate, estimate_of_signs

BLOCK = 1000  # candidates corrected at once
PAIRS = 2000  # most pairs of networks that are left out together
FEATURES = 7  # six genes and the score
CONSTANT = 1e-9  # a feature that varies by less, relative to its size, does not vary


@dataclass(frozen=True)
class Correction:
    """Predicts the accuracy of a network trained alone from its genes and its score.

    Attributes:
        ridge: Regression on the standardized features.
        scale: Standard deviations of the features, [F].
    """

    ridge: Ridge
    scale: np.ndarray

    @property
    def slope(self) -> float:
        """Change of the prediction with the score."""
        return float(self.ridge.weights[-1] / self.scale[-1])

    def __call__(self, specs: Sequence[SubnetSpec], scores: np.ndarray) -> np.ndarray:
        """Return the predictions [n] for networks with their scores [n]."""
        return self.predict(_features(specs, scores))

    def predict(self, features_nF: np.ndarray) -> np.ndarray:
        """Return the predictions [n] for features."""
        return self.ridge(features_nF / self.scale)

    def apply(self, candidates: list[Candidate]) -> list[Candidate]:
        """Return scored candidates with corrected scores."""
        if not candidates:
            return []
        values = self([c.spec for c in candidates], np.array([c.value for c in candidates]))
        return [
            replace(c, score=Score(float(value), None, c.images), supernet_score=c.value)
            for c, value in zip(candidates, values, strict=True)
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the correction as written to ``best.json``."""
        vectors = {"center": self.ridge.center, "weights": self.ridge.weights, "scale": self.scale}
        return {name: vector.tolist() for name, vector in vectors.items()} | {"mean": self.ridge.mean}


def fit(specs: Sequence[SubnetSpec], scores: np.ndarray, accuracies: np.ndarray) -> Correction:
    """Fit a correction to networks with their scores [n] and their accuracies alone [n]."""
    return _fit(_features(specs, scores), accuracies)


def _fit(features_nF: np.ndarray, accuracies: np.ndarray) -> Correction:
    # The deviation of equal numbers need not be 0
    varies_F = np.ptp(features_nF, 0) > CONSTANT * abs(features_nF).max(0)
    scale_F = np.where(varies_F, features_nF.std(0), 1)
    ridge = fit_ridge(features_nF / scale_F, accuracies)
    return Correction(replace(ridge, weights=ridge.weights * varies_F), scale_F)


def held_out_tau(specs: Sequence[SubnetSpec], scores: np.ndarray, accuracies: np.ndarray) -> Estimate:
    """Return Kendall's tau of corrected scores with the accuracies, with its interval over networks.

    The two networks of each pair are compared by a correction fitted to the others. Of many pairs, a random part
    counts. Leaving out one network would not do: without a good one the others have a lower mean, and so has its
    prediction.
    """
    n, features_nF = len(specs), _features(specs, scores)
    pairs = np.argwhere(np.triu(np.ones((n, n)), 1))
    if len(pairs) > PAIRS:
        pairs = pairs[np.random.default_rng(0).choice(len(pairs), PAIRS, replace=False)]
    predicted_nn, truth_nn = np.zeros((n, n)), np.zeros((n, n))
    for i, j in pairs:
        others = np.delete(np.arange(n), [i, j])
        first, second = _fit(features_nF[others], accuracies[others]).predict(features_nF[[i, j]])
        for matrix, sign in ((predicted_nn, first - second), (truth_nn, accuracies[i] - accuracies[j])):
            matrix[i, j] = np.sign(sign)
            matrix[j, i] = -matrix[i, j]
    return estimate_of_signs(predicted_nn, truth_nn)


def genes(table: WidthTable) -> np.ndarray:
    """Return logarithms of the patch size, embed_dim, layers, and the mean heads, q/k/v and MLP width, [n, 6]."""
    depth_n = np.maximum((table.num_heads > 0).sum(1), 1)
    means = [np.maximum(x.sum(1) / depth_n, 1) for x in (table.num_heads, table.qkv_dim, table.mlp_dim)]
    return np.stack([np.log2(x) for x in (table.patch_size, table.embed_dim, depth_n, *means)], 1)


def _features(specs: Sequence[SubnetSpec], scores: np.ndarray) -> np.ndarray:
    return np.column_stack([genes(WidthTable.from_specs(list(specs))), scores])


def of_check(result: dict[str, Any]) -> Correction:
    """Return the correction fitted to the networks of ``check.json``.

    Raises:
        UserError: All networks have the same accuracy.
    """
    specs, scores, accuracies = _columns(result)
    if np.ptp(accuracies) == 0:
        raise UserError(
            f"search.check.correct: all {len(specs)} networks have the same accuracy after {result['steps']:,} steps; "
            "increase search.check.steps, or set search.check.correct=false"
        )
    return fit(specs, scores, accuracies)


def held_out(result: dict[str, Any]) -> list[float]:
    """Return the score of each network of ``check.json`` by a correction fitted to the other networks."""
    specs, scores, accuracies = _columns(result)
    features_nF, found = _features(specs, scores), []
    for i in range(len(specs)):
        others = np.arange(len(specs)) != i
        found += _fit(features_nF[others], accuracies[others]).predict(features_nF[[i]]).tolist()
    return found


def _columns(result: dict[str, Any]) -> tuple[list[SubnetSpec], np.ndarray, np.ndarray]:
    rows = result["nets"]
    scores, accuracies = (np.array([row[name] for row in rows], float) for name in ("score", "accuracy"))
    return [spec_from_dict(row["spec"]) for row in rows], scores, accuracies


def read_correction(run: RunDir) -> Correction | None:
    """Return the correction of the last search, from ``best.json``; None if its scores are those of the supernet.

    Raises:
        UserError: The file has another content.
    """
    data = read_json(run.best, {}).get("correction")
    if data is None:
        return None
    try:
        center, weights, scale = (np.array(data[name], float) for name in ("center", "weights", "scale"))
        numbers = np.concatenate([center, weights, scale, [data["mean"]]])
        if not (np.isfinite(numbers).all() and len(center) == len(weights) == len(scale) == FEATURES and scale.all()):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{run.best}: correction: not as the search writes it; restore it, or search again") from None
    return Correction(Ridge(center, weights, float(data["mean"])), scale)


def corrected(run: RunDir, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield the candidates of a ledger with the scores that the last search of the run has used."""
    correction, rest = read_correction(run), iter(candidates)
    if correction is None:
        yield from rest
        return
    while block := list(islice(rest, BLOCK)):
        yield from correction.apply(block)

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
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.ridge import Ridge, fit_ridge
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.trials.check_result import read_check

BLOCK = 1000  # candidates corrected at once


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
        return self.ridge(_features(specs, scores) / self.scale)

    def apply(self, candidates: list[Candidate]) -> list[Candidate]:
        """Return scored candidates with corrected scores."""
        if not candidates:
            return []
        values = self([c.spec for c in candidates], np.array([c.value for c in candidates]))
        return [self._with_value(c, float(value)) for c, value in zip(candidates, values, strict=True)]

    def _with_value(self, candidate: Candidate, value: float) -> Candidate:
        stderr = None if candidate.stderr is None else candidate.stderr * abs(self.slope)
        return replace(candidate, score=Score(value, stderr, candidate.images), supernet_score=candidate.value)


def fit(specs: Sequence[SubnetSpec], scores: np.ndarray, accuracies: np.ndarray) -> Correction:
    """Fit a correction to networks with their scores [n] and their accuracies alone [n]."""
    features_nF = _features(specs, scores)
    scale_F = features_nF.std(0)
    scale_F[scale_F == 0] = 1
    return Correction(fit_ridge(features_nF / scale_F, accuracies), scale_F)


def left_out(specs: Sequence[SubnetSpec], scores: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """Return the prediction of each network [n] by a correction fitted to the others."""
    predicted_n = np.empty(len(specs))
    for i in range(len(specs)):
        others = [j for j in range(len(specs)) if j != i]
        correction = fit([specs[j] for j in others], scores[others], accuracies[others])
        predicted_n[i] = correction([specs[i]], scores[[i]])[0]
    return predicted_n


def genes(table: WidthTable) -> np.ndarray:
    """Return logarithms of the patch size, embed_dim, layers, and the mean heads, q/k/v and MLP width, [n, 6]."""
    depth_n = np.maximum((table.num_heads > 0).sum(1), 1)
    means = [np.maximum(x.sum(1) / depth_n, 1) for x in (table.num_heads, table.qkv_dim, table.mlp_dim)]
    return np.stack([np.log2(x) for x in (table.patch_size, table.embed_dim, depth_n, *means)], 1)


def _features(specs: Sequence[SubnetSpec], scores: np.ndarray) -> np.ndarray:
    return np.column_stack([genes(WidthTable.from_specs(list(specs))), scores])


def of_check(result: dict[str, Any], where: str) -> Correction:
    """Return the correction fitted to the networks of ``check.json``; ``where`` starts the line of an error."""
    rows = result["nets"]
    specs = [spec_from_dict(row["spec"], where) for row in rows]
    return fit(specs, *(np.array([row[name] for row in rows]) for name in ("score", "accuracy")))


def corrected(run: RunDir, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield the candidates of a ledger with the scores that the search of the run has used."""
    result = read_check(run)
    if not result.get("correct"):
        yield from candidates
        return
    correction, rest = of_check(result, str(run.check)), iter(candidates)
    while block := list(islice(rest, BLOCK)):
        yield from correction.apply(block)

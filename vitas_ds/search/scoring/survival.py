"""Find candidates unlikely to survive their generation, given uncertain scores."""
# R draws, M candidates and rivals, K candidates with uncertain scores, P rivals, F objectives (lower is better)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from vitas_ds.search.scoring.surrogate import PredictedScores

DRAWS = 400
MAX_SURVIVAL = 0.05  # share of the draws in which a hopeless candidate may still survive
MAX_COMPARISONS = 2**24  # comparisons held in memory at once


@dataclass(frozen=True)
class Selection:
    """Selection at the end of a generation.

    Attributes:
        rivals: Objective values of the survivors so far, [P, F].
        places: Number of survivors.
        objectives: Costs to minimize, in addition to the score.
    """

    rivals: np.ndarray
    places: int
    objectives: Sequence[str] = ()


def survivor_mask(values: np.ndarray, places: int) -> np.ndarray:
    """Return which rows survive in each draw, bool [R, M].

    With one objective, the best rows survive, including ties. With more, all fronts survive that start within the
    places; which rows of the last front would be removed is left open.

    Args:
        values: Objective values, [R, M, F].
        places: Number of survivors.
    """
    if values.shape[2] == 1:
        last = min(places, values.shape[1]) - 1
        return values[..., 0] <= np.partition(values[..., 0], last, axis=1)[:, [last]]
    one, other = values[:, :, None], values[:, None]
    dominates = (one <= other).all(-1) & (one < other).any(-1)  # [R, M, M]
    remaining = np.ones(values.shape[:2], bool)
    survives = np.zeros_like(remaining)
    while (unfinished := (survives.sum(1) < places) & remaining.any(1)).any():
        front = remaining & ~(dominates & remaining[:, :, None]).any(1)
        survives |= front & unfinished[:, None]
        remaining &= ~front
    return survives


def hopeless(scores: PredictedScores, costs: np.ndarray, selection: Selection, level: float) -> np.ndarray:
    """Return which candidates survive with a probability below ``level``, bool [K].

    The probability is estimated from joint draws of the final scores. A few hundred draws cannot resolve a small
    ``level``. Therefore the errors are stretched until ``level`` becomes ``MAX_SURVIVAL``; this is exact for the
    comparison of two candidates.

    Args:
        scores: Predicted final scores.
        costs: Values of the other objectives, [K, F - 1]. They are certain.
        selection: Rivals and number of survivors.
        level: Probability of survival.
    """
    quantile = NormalDist().inv_cdf
    draws = scores.draws(DRAWS, stretch=max(quantile(1 - level) / quantile(1 - MAX_SURVIVAL), 0.0))
    survived = np.zeros(draws.shape[1])
    size = draws.shape[1] + len(selection.rivals)
    for part in np.array_split(draws, -(-DRAWS * size**2 // MAX_COMPARISONS)):
        own = np.concatenate([-part[..., None], np.broadcast_to(costs, (len(part), *costs.shape))], 2)
        rivals = np.broadcast_to(selection.rivals, (len(part), *selection.rivals.shape))
        survived += survivor_mask(np.concatenate([own, rivals], 1), selection.places)[:, : part.shape[1]].sum(0)
    return survived < MAX_SURVIVAL * DRAWS

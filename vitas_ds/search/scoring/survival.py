"""Who survives a generation, and how likely that is as long as scores are uncertain."""
# R draws, M nets, K of them with uncertain scores, F objectives (lower is better)

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from vitas_ds.search.scoring.surrogate import Forecast

DRAWS = 400
SHARE = 0.05  # of the draws in which a net may survive and still be called hopeless
AT_ONCE = 2**24  # comparisons that are held in memory


def surviving(values: np.ndarray, places: int) -> np.ndarray:
    """[R, M] bool of the rows of [R, M, F]: those of the fronts that begin within the places, ties included.

    With one objective these are the best rows; with more, which of the last front have to go is left open.
    """
    if values.shape[2] == 1:
        last = min(places, values.shape[1]) - 1
        return values[..., 0] <= np.partition(values[..., 0], last, axis=1)[:, [last]]
    one, other = values[:, :, None], values[:, None]
    beats = (one <= other).all(-1) & (one < other).any(-1)  # [R, M, M]
    left = np.ones(values.shape[:2], bool)
    taken = np.zeros_like(left)
    while (unfinished := (taken.sum(1) < places) & left.any(1)).any():
        front = left & ~(beats & left[:, :, None]).any(1)
        taken |= front & unfinished[:, None]
        left &= ~front
    return taken


def hopeless(outlook: Forecast, costs: np.ndarray, rivals: np.ndarray, places: int, level: float) -> np.ndarray:
    """[K] bool: nets whose chance to be among the survivors is below the level.

    Args:
        outlook: of their scores; ``costs`` [K, F - 1] are certain.
        rivals: [P, F] what they compete with beside each other.

    The chance is counted over joint draws of the final scores. So that a small ``level`` can be told from some hundred
    draws, errors are stretched until ``level`` becomes ``SHARE``; that is exact for the comparison of two nets.
    """
    tail = NormalDist().inv_cdf
    scores = outlook.draws(DRAWS, stretch=max(tail(1 - level) / tail(1 - SHARE), 0.0))
    survived = np.zeros(scores.shape[1])
    nets = scores.shape[1] + len(rivals)
    for part in np.array_split(scores, -(-DRAWS * nets**2 // AT_ONCE)):
        own = np.concatenate([-part[..., None], np.broadcast_to(costs, (len(part), *costs.shape))], 2)
        others = np.broadcast_to(rivals, (len(part), *rivals.shape))
        survived += surviving(np.concatenate([own, others], 1), places)[:, : part.shape[1]].sum(0)
    return survived < SHARE * DRAWS

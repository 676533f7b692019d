"""Survivors against the fronts of pymoo; hopeless candidates against the normal distribution."""

import numpy as np
import pytest
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from scipy.stats import norm

from vitas_ds.search.scoring.surrogate import PredictedScores
from vitas_ds.search.scoring.survival import Selection, hopeless, survivor_mask


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_survivors_are_the_fronts_of_pymoo(objectives):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 12, (40, 30, objectives)).astype(float)  # with ties
    for places in (1, 7, 29, 30, 40):
        masks = survivor_mask(values, places)
        for row, mask in zip(values, masks, strict=True):
            fronts = NonDominatedSorting().do(row, n_stop_if_ranked=places)
            assert set(np.flatnonzero(mask)) == set(np.concatenate(fronts))


def test_hopeless_agrees_with_the_normal_distribution():
    """Independent candidates against rivals with certain scores; the last place has the score 0.5."""
    error, level = 0.02, 0.01
    means = 0.5 + error * np.linspace(-4, 1, 51)
    scores = PredictedScores(means, np.zeros((100, 51)), error)
    selection = Selection(-np.concatenate([np.full(7, 0.5), np.full(200, 0.4)])[:, None], 7)
    alone = [
        hopeless(PredictedScores(means[[k]], np.zeros((100, 1)), error), np.zeros((1, 0)), selection, level)[0]
        for k in range(51)
    ]
    chance = norm.sf((0.5 - means) / error)
    assert all(alone[k] for k in range(51) if chance[k] < 0.5 * level)
    assert not any(alone[k] for k in range(51) if chance[k] > 2 * level)
    together = hopeless(scores, np.zeros((51, 0)), selection, level)
    assert together.sum() > sum(alone)  # the other candidates take places too


def test_a_cheaper_candidate_is_not_hopeless():
    scores = PredictedScores(np.array([0.2, 0.2]), np.zeros((10, 2)), 0.01)
    rivals = np.array([[-0.5, 10.0], [-0.6, 20.0], [-0.7, 30.0]])
    for places, expected in ((3, [False, True]), (4, [False, True]), (5, [False, False])):
        assert hopeless(scores, np.array([[9.0], [11.0]]), Selection(rivals, places), 0.01).tolist() == expected

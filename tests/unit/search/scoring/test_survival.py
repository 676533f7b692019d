"""Who survives, against pymoo's own fronts; who is hopeless, against the normal distribution."""

import numpy as np
import pytest
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from scipy.stats import norm

from vitas_ds.search.scoring.surrogate import Forecast
from vitas_ds.search.scoring.survival import hopeless, surviving


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_survivors_are_pymoos_fronts(objectives):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 12, (40, 30, objectives)).astype(float)  # with ties
    for places in (1, 7, 29, 30, 40):
        told = surviving(values, places)
        for row, mine in zip(values, told, strict=True):
            fronts = NonDominatedSorting().do(row, n_stop_if_ranked=places)
            assert set(np.flatnonzero(mine)) == set(np.concatenate(fronts))


def test_a_net_is_hopeless_where_the_normal_distribution_says_so():
    """Of independent nets against certain rivals, whose last place has a score of 0.5."""
    error, level = 0.02, 0.01
    means = 0.5 + error * np.linspace(-4, 1, 51)
    outlook = Forecast(means, np.zeros((100, 51)), error)
    rivals = -np.concatenate([np.full(7, 0.5), np.full(200, 0.4)])[:, None]
    alone = [
        hopeless(Forecast(means[[k]], np.zeros((100, 1)), error), np.zeros((1, 0)), rivals, 7, level)[0]
        for k in range(51)
    ]
    chance = norm.sf((0.5 - means) / error)
    assert all(alone[k] for k in range(51) if chance[k] < 0.5 * level)
    assert not any(alone[k] for k in range(51) if chance[k] > 2 * level)
    together = hopeless(outlook, np.zeros((51, 0)), rivals, 7, level)
    assert together.sum() > sum(alone)  # the others take places as well


def test_a_cheaper_net_is_not_hopeless():
    outlook = Forecast(np.array([0.2, 0.2]), np.zeros((10, 2)), 0.01)
    rivals = np.array([[-0.5, 10.0], [-0.6, 20.0], [-0.7, 30.0]])
    for places, told in ((3, [False, True]), (4, [False, True]), (5, [False, False])):
        assert hopeless(outlook, np.array([[9.0], [11.0]]), rivals, places, 0.01).tolist() == told

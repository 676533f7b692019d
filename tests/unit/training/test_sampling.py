"""Draws are pure functions of (seed, step); the fitted identity probability meets the budget."""

import time

import pytest

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.training.sampling import draw, fit_identity_prob, mean_price

ONE_G = SearchSpace()


def test_draws_depend_on_seed_step_and_index_alone():
    first = [draw(ONE_G, 1, step, 0.4) for step in range(20)]
    assert [draw(ONE_G, 1, step, 0.4) for step in reversed(range(20))] == first[::-1]
    assert len(set(first)) == 20
    assert draw(ONE_G, 2, 0, 0.4) != first[0] and draw(ONE_G, 1, 0, 0.4, index=1) != first[0]


def test_the_fitted_probability_lands_in_the_middle():
    begun = time.process_time()
    prob = fit_identity_prob(ONE_G, 0.9e9, 1.0e9)
    assert time.process_time() - begun < 1
    macs = [spec_macs(draw(ONE_G, 0, step, prob)) for step in range(3000)]
    mean = sum(macs) / len(macs)
    error = (sum((m - mean) ** 2 for m in macs) / len(macs)) ** 0.5 / len(macs) ** 0.5
    assert abs(mean - 0.95e9) < 4 * error
    assert mean_price(ONE_G, prob) == pytest.approx(0.95e9, rel=2e-3)


@pytest.mark.parametrize(("low", "high", "bound"), [(1e6, 2e6, 0.99), (1e12, 2e12, 0.0)])
def test_a_budget_out_of_reach_is_told(low, high, bound):
    with pytest.warns(UserWarning, match=f"outside the budget .* {bound:g} comes nearest"):
        assert fit_identity_prob(ONE_G, low, high) == bound


def test_a_space_without_identity_has_nothing_to_fit():
    space = SearchSpace(identity=False)
    mean = mean_price(space, None)
    assert fit_identity_prob(space, 0.9 * mean, 1.2 * mean) == 0
    with pytest.warns(UserWarning, match="no identity"):
        fit_identity_prob(space, 1e6, 2e6)


def test_cell_spaces_are_fitted_too():
    space = SearchSpace(layout="cell", patch_sizes=(16,))
    assert mean_price(space, fit_identity_prob(space, 1.2e9, 1.4e9)) == pytest.approx(1.3e9, rel=0.01)

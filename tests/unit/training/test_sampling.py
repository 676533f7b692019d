"""The subnets of a step, and the fitted identity probability.

References: counts by hand, and a second draw.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tests.helpers.strategies import spaces_and_specs
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.training.sampling import complement, draw, fit_identity_prob, mean_cost, subnets_of_step

ONE_G = SearchSpace()


def subnets(step: int, seed: int = 0, **rule: Any) -> list[SubnetSpec]:
    return subnets_of_step(ONE_G, config.Supernet(**rule), seed, step, 0.4)


def test_draws_depend_only_on_seed_step_and_index() -> None:
    first = [draw(ONE_G, 1, step, 0.4) for step in range(20)]
    assert [draw(ONE_G, 1, step, 0.4) for step in reversed(range(20))] == first[::-1]
    assert len(set(first)) == 20
    assert draw(ONE_G, 2, 0, 0.4) != first[0] and draw(ONE_G, 1, 0, 0.4, index=1) != first[0]


def test_single_path_trains_one_subnet_per_step() -> None:
    assert [len(subnets(step)) for step in range(5)] == [1] * 5
    assert subnets(3) == subnets(3)
    drawn = {(seed, step): subnets(step, seed)[0] for seed in range(10) for step in range(10)}
    assert len(set(drawn.values())) == 100


def test_sandwich_is_largest_then_random_then_smallest() -> None:
    first, *middle, last = subnets(3, sampling="sandwich", random_subnets=3)
    assert first == genome.decode(ONE_G, genome.largest(ONE_G))
    assert last == genome.decode(ONE_G, genome.smallest(ONE_G))
    assert len(set(middle)) == 3
    assert len(subnets(3, sampling="sandwich", random_subnets=0)) == 2


@pytest.mark.parametrize("rule", [{"sampling": "single"}, {"sampling": "sandwich", "random_subnets": 2}])
def test_every_second_step_trains_the_complement(rule: dict[str, Any]) -> None:
    for step in range(0, 10, 2):
        even, odd = subnets(step, complementary=True, **rule), subnets(step + 1, complementary=True, **rule)
        assert even == subnets(step, **rule)
        pairs = list(zip(even, odd, strict=True))
        for a, b in pairs if rule["sampling"] == "single" else pairs[1:-1]:
            assert a.patch_size == b.patch_size
            assert [x and x.num_heads for x in a.layers] == [x and x.num_heads for x in b.layers]
            for field, widths in (("qkv_dim", ONE_G.qkv_widths), ("mlp_dim", ONE_G.mlp_widths)):
                sums = {getattr(x, field) + getattr(y, field) for x, y in zip(a.active, b.active, strict=True)}
                assert sums <= {widths[0] + widths[-1]}
            index = ONE_G.embed_widths.index
            assert index(a.embed_dim) + index(b.embed_dim) == 9


@settings(max_examples=30, deadline=None)
@given(spaces_and_specs())
def test_complement_is_in_the_space_and_its_own_inverse(space_and_spec: tuple[SearchSpace, SubnetSpec]) -> None:
    space, spec = space_and_spec
    other = complement(space, spec)
    assert genome.decode(space, genome.encode(space, other)) == other
    assert complement(space, other) == spec


def test_complementary_steps_train_each_width_as_often_as_its_complement() -> None:
    drawn = [subnets(step, complementary=True)[0].embed_dim for step in range(400)]
    counts = np.array([drawn.count(width) for width in ONE_G.embed_widths])
    assert counts.sum() == 400
    assert (counts == counts[::-1]).all()


def test_the_fitted_probability_reaches_the_middle_of_the_budget() -> None:
    start = time.process_time()
    prob = fit_identity_prob(ONE_G, 0.9e9, 1.0e9)
    assert time.process_time() - start < 1
    macs = [spec_macs(draw(ONE_G, 0, step, prob)) for step in range(3000)]
    mean = sum(macs) / len(macs)
    error = (sum((m - mean) ** 2 for m in macs) / len(macs)) ** 0.5 / len(macs) ** 0.5
    assert abs(mean - 0.95e9) < 4 * error
    assert mean_cost(ONE_G, prob) == pytest.approx(0.95e9, rel=2e-3)


@pytest.mark.parametrize(("low", "high", "bound"), [(1e6, 2e6, 0.99), (1e12, 2e12, 0.0)])
def test_a_warning_for_a_budget_out_of_reach(low: float, high: float, bound: float) -> None:
    with pytest.warns(UserWarning, match=f"outside the budget .* {bound:g} is the closest"):
        assert fit_identity_prob(ONE_G, low, high) == bound


def test_a_space_without_identity_has_nothing_to_fit() -> None:
    space = SearchSpace(identity=False)
    mean = mean_cost(space, None)
    assert fit_identity_prob(space, 0.9 * mean, 1.2 * mean) == 0
    with pytest.warns(UserWarning, match="no identity"):
        fit_identity_prob(space, 1e6, 2e6)


def test_cell_spaces_are_fitted_too() -> None:
    space = SearchSpace(layout="cell", patch_sizes=(16,))
    assert mean_cost(space, fit_identity_prob(space, 1.2e9, 1.4e9)) == pytest.approx(1.3e9, rel=0.01)


def test_subnets_within_the_budget_cover_it():
    """All are within the budget; patch sizes have equal shares, and every depth and position occurs."""
    space = SearchSpace(
        image_size=32, patch_sizes=(4, 8), embed_dim=64, depth=4, num_heads=(2, 4), qkv_dim=96, mlp_dim=64,
        ratios=(0.5, 1.0), min_depth=1,
    )  # fmt: skip
    budget = 1_000_000, 2_500_000
    within = feasible_set(space, {"macs": budget})
    specs = [draw(space, 0, step, within=within) for step in range(400)]
    assert all(budget[0] <= spec_macs(spec) <= budget[1] for spec in specs)
    assert sum(spec.patch_size == 4 for spec in specs) == pytest.approx(200, abs=50)  # 5 standard deviations
    assert {spec.depth for spec in specs} == {genome.decode(space, row).depth for row in within.enumerate_all()}
    assert all(any(spec.layers[i] is not None for spec in specs if spec.depth == 1) for i in range(4))
    shifted = space.model_copy(update={"identity_shift": True})
    assert all(None not in draw(shifted, 0, step, within=within).canonical().layers for step in range(5))
    drawn = draw(shifted, 0, 3, within=within)
    assert drawn.layers[: drawn.depth] == drawn.active

"""Random subnets that cover the choices of a budget. References: a choice by hand, and the whole space."""

from collections import Counter

from tests.helpers.searches import SMALL
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.trials.spread import choose_evenly, spread_subnets


def net(patch_size: int, embed_dim: int, depth: int) -> SubnetSpec:
    return SubnetSpec(32, patch_size, embed_dim, 10, (LayerSpec(2, 48, 64),) * depth)


def test_the_least_used_patch_size_then_width_then_depth_by_hand():
    pool = [net(8, 16, 2), net(8, 16, 3), net(8, 32, 2), net(16, 16, 2), net(16, 32, 2), net(16, 32, 3)]
    # the first; another patch size, width and depth; now all are used equally: the first of the rest; 16 and 32; ...
    expected = [pool[i] for i in (0, 5, 1, 4, 2, 3)]
    assert choose_evenly(pool, 6) == choose_evenly(pool, 9) == expected
    assert choose_evenly(pool, 2) == expected[:2]


def test_subnets_are_distinct_within_the_budget_and_cover_it():
    feasible = feasible_set(SMALL, {"macs": (600_000, 1_200_000)})
    found = spread_subnets(feasible, 8, seed=1)
    assert len(set(found)) == 8 and all(600_000 <= spec_macs(spec) <= 1_200_000 for spec in found)
    assert Counter(spec.patch_size for spec in found) == {8: 4, 16: 4}
    assert len({spec.embed_dim for spec in found}) == len(SMALL.embed_widths)
    assert spread_subnets(feasible, 12, seed=1)[:8] == found != spread_subnets(feasible, 8, seed=2)


def test_a_small_budget_gives_fewer_subnets():
    few = type(SMALL)(**SMALL.model_dump() | {"depth": 1, "patch_sizes": (8,), "num_heads": (1,), "ratios": (0.5, 1.0)})
    found = spread_subnets(feasible_set(few, {}), 300, seed=0)
    assert len(found) == len(set(found)) < 20

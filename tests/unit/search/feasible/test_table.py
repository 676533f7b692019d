"""The table of feasible nets against listing every genome of a small space; samples and repairs against the budget."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.helpers.searches import TIMED
from tests.helpers.strategies import spaces
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import affine_cost, feasible_set

ONE_G = SearchSpace()
BUDGET = {"macs": (900_000_000, 1_000_000_000)}


def every_net(space: SearchSpace) -> np.ndarray:
    """Canonical genomes of all nets of a small space, by brute force."""
    genomes = np.array(list(itertools.product(*(range(size) for size in space.gene_sizes))))
    genomes = np.unique(genome.canonical(space, genomes), axis=0)
    return genomes[(genome.width_table(space, genomes).num_heads > 0).sum(1) >= space.min_layers]


@st.composite
def small_problems(draw):
    """A space of at most 20,000 genomes, all its nets, and a budget on one to three costs."""
    space = draw(spaces(max_depth=2))
    assume(np.prod(space.gene_sizes) <= 20_000)
    nets = every_net(space)
    budget = {}
    for name in draw(st.sets(st.sampled_from(list(TIMED)), min_size=1)):
        values = np.sort(budgets.compute_costs(space, nets, costs=TIMED)[name])
        ends = [int(values[draw(st.integers(0, len(values) - 1))]) + draw(st.integers(-3, 3)) for _ in range(2)]
        budget[name] = (max(min(ends), 0), max(ends))
    return space, nets, budget


def keys(genomes) -> set[bytes]:
    return {operators.key(row) for row in genomes}


@settings(max_examples=60, deadline=None)
@given(small_problems())
def test_exactly_the_nets_inside_are_known(problem):
    space, nets, budget = problem
    prices = budgets.compute_costs(space, nets, costs=TIMED)
    far = budgets.violation(budget, prices)
    inside = keys(nets[far == 0])
    if not inside:
        with pytest.raises(UserError, match="no network of the space is within the budget; the closest has") as error:
            feasible_set(space, budget, TIMED)
        i = np.flatnonzero(far == far.min())
        costs = [", ".join(f"{n} {budgets.format_cost(n, prices[n][k])}" for n in budget) for k in i]
        told = [f"{cost}: {net.describe()}" for cost, net in zip(costs, genome.decode_all(space, nets[i]), strict=True)]
        assert any(str(error.value).endswith(text) for text in told)
        assert "\n" not in str(error.value)
        return
    table = feasible_set(space, budget, TIMED)
    assert table.size() == len(inside)
    assert keys(table.enumerate_all()) == inside
    wanted = min(len(inside), 40)
    fresh = operators.sample_distinct(table, wanted, np.random.default_rng(0))
    assert len(fresh) == len(keys(fresh)) == wanted and keys(fresh) <= inside
    rest = operators.sample_distinct(table, len(inside), np.random.default_rng(1), keys(fresh))
    assert keys(rest) == inside - keys(fresh)


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.integers(0, 2**32))
def test_repair_ends_inside_and_leaves_what_is_inside(problem, seed):
    space, nets, budget = problem
    far = budgets.violation(budget, budgets.compute_costs(space, nets, costs=TIMED))
    assume((far == 0).any())
    rng = np.random.default_rng(seed)
    children = genome.sample(space, rng, 30, 0.5)
    mended = operators.repair(feasible_set(space, budget, TIMED), children, rng)
    assert keys(mended) <= keys(nets[far == 0])
    before = genome.canonical(space, children)
    kept = budgets.violation(budget, budgets.compute_costs(space, before, costs=TIMED)) == 0
    assert (mended[kept] == before[kept]).all()


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 2**32), st.sampled_from(list(TIMED)))
def test_costs_are_affine_in_depth_and_width_sums(space, seed, name):
    nets = genome.sample(space, np.random.default_rng(seed), 50)
    table = genome.width_table(space, nets)
    stem = nets[:, 0] * len(space.embed_widths) + nets[:, 1]
    rows = stem, (table.num_heads > 0).sum(1), table.qkv_dim.sum(1) // 3, table.num_heads.sum(1)
    got = affine_cost(space, TIMED[name]).evaluate(rows, table.mlp_dim.sum(1))
    assert (got == TIMED[name](table)).all()


def test_repair_with_nothing_near_builds_a_net():
    """A window so narrow that no single step can end in it."""
    values = np.sort(budgets.compute_costs(ONE_G, genome.sample(ONE_G, np.random.default_rng(0), 1, 0.5))["macs"])
    budget = {"macs": (int(values[0]), int(values[0]))}
    rng = np.random.default_rng(1)
    mended = operators.repair(feasible_set(ONE_G, budget), genome.sample(ONE_G, rng, 20, 0.2), rng)
    assert (budgets.compute_costs(ONE_G, mended)["macs"] == values[0]).all()


def test_a_child_is_repaired_by_few_genes():
    """Children just outside the budget: most need one or two genes (a layer that leaves shifts all those behind it)."""
    rng = np.random.default_rng(0)
    table = feasible_set(ONE_G, BUDGET)
    near = operators.sample_distinct(feasible_set(ONE_G, {"macs": (1_000_000_001, 1_020_000_000)}), 50, rng)
    mended = operators.repair(table, near, rng)
    assert (budgets.violation(BUDGET, budgets.compute_costs(ONE_G, mended)) == 0).all()
    assert np.median((mended != near).sum(1)) <= 2


def test_the_count_of_all_nets():
    assert feasible_set(ONE_G, {}).size() == pytest.approx(genome.count_subnets(ONE_G), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_an_initial_population_covers_space_and_budget(seed):
    nets = operators.sample_distinct(feasible_set(ONE_G, BUDGET), 60, np.random.default_rng(seed))
    table = genome.width_table(ONE_G, nets)
    assert np.bincount(nets[:, 0]).min() >= 15  # three patch sizes
    assert (np.bincount(nets[:, 1], minlength=10) >= 2).all()
    assert len(np.unique((table.num_heads > 0).sum(1))) >= 11  # of 15 that exist
    slices = np.histogram(budgets.compute_costs(ONE_G, nets)["macs"], 6, BUDGET["macs"])[0]
    assert slices.min() >= 3


def test_an_initial_population_is_fast():
    def seconds() -> float:
        begun = time.perf_counter()
        operators.sample_distinct(feasible_set(ONE_G, BUDGET), 50, np.random.default_rng(0))
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(5)) < 0.05


def test_pricing_is_fast():
    """The first release takes 142 us a candidate."""
    nets = genome.sample(ONE_G, np.random.default_rng(0), 20_000)

    def seconds() -> float:
        begun = time.perf_counter()
        budgets.compute_costs(ONE_G, nets)
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(3)) / len(nets) < 20e-6


def test_the_budget_of_a_recipe():
    cfg = config.Search(macs=(0.5, 1e9), params=(1e6, 2.5e6), activations=(0, 3e7))
    told = {"macs": (1, 10**9), "params": (10**6, 2_500_000), "activations": (0, 30_000_000)}
    assert budgets.from_config(cfg) == told


def test_memory_bounds_the_heads_too():
    """Activations depend on heads: the table then knows their sum as well."""
    budget = BUDGET | {"activations": (20_000_000, 20_010_000)}
    begun = time.perf_counter()
    table = feasible_set(ONE_G, budget)
    nets = operators.sample_distinct(table, 200, np.random.default_rng(0))
    assert time.perf_counter() - begun < 5
    assert len(keys(nets)) == 200 and not budgets.violation(budget, budgets.compute_costs(ONE_G, nets)).any()
    children = operators.repair(table, genome.sample(ONE_G, np.random.default_rng(1), 50), np.random.default_rng(2))
    assert not budgets.violation(budget, budgets.compute_costs(ONE_G, children)).any()

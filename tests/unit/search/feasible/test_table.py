"""The feasible set against enumerating small spaces; sampled and repaired genomes against the budget."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.helpers.searches import TIMED
from tests.helpers.strategies import elastic_spaces, spaces
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import affine_cost, feasible_set

ONE_G = SearchSpace()
BUDGET = {"macs": (900_000_000, 1_000_000_000)}


def all_genomes(space: SearchSpace) -> np.ndarray:
    """Enumerate the canonical genomes of all networks of a small space."""
    genomes = np.array(list(itertools.product(*(range(size) for size in space.gene_sizes))))
    genomes = np.unique(genome.canonical(space, genomes), axis=0)
    return genomes[(genome.width_table(space, genomes).num_heads > 0).sum(1) >= space.min_layers]


@st.composite
def small_problems(draw):
    """Draw a space of at most 20,000 genomes, with all its networks and a budget on one or more costs."""
    space = draw(st.one_of(spaces(max_depth=2), elastic_spaces(max_depth=2)))
    assume(np.prod(space.gene_sizes) <= 20_000)
    genomes = all_genomes(space)
    budget = {}
    for name in draw(st.sets(st.sampled_from(list(TIMED)), min_size=1)):
        values = np.sort(budgets.compute_costs(space, genomes, costs=TIMED)[name])
        ends = [int(values[draw(st.integers(0, len(values) - 1))]) + draw(st.integers(-3, 3)) for _ in range(2)]
        budget[name] = (max(min(ends), 0), max(ends))
    return space, genomes, budget


def keys(genomes) -> set[bytes]:
    return {operators.key(row) for row in genomes}


def violation(space: SearchSpace, budget: budgets.Budget, genomes: np.ndarray) -> np.ndarray:
    return budgets.violation(budget, budgets.compute_costs(space, genomes, costs=TIMED))


@settings(max_examples=60, deadline=None)
@given(small_problems())
def test_the_set_contains_exactly_the_networks_within_the_budget(problem):
    space, genomes, budget = problem
    expected = keys(genomes[violation(space, budget, genomes) == 0])
    assume(expected)
    feasible = feasible_set(space, budget, TIMED)
    assert feasible.size() == len(expected)
    assert keys(feasible.enumerate_all()) == expected
    count = min(len(expected), 40)
    first = keys(operators.sample_distinct(feasible, count, np.random.default_rng(0)))
    assert len(first) == count and first <= expected
    others = operators.sample_distinct(feasible, len(expected), np.random.default_rng(1), first)
    assert keys(others) == expected - first


@settings(max_examples=60, deadline=None)
@given(small_problems())
def test_an_empty_set_is_an_error_with_the_closest_network(problem):
    space, genomes, budget = problem
    violations = violation(space, budget, genomes)
    assume(violations.min() > 0)
    with pytest.raises(UserError, match="no network of the space is within the budget; the closest has") as error:
        feasible_set(space, budget, TIMED)
    closest = genomes[violations == violations.min()]
    costs = budgets.compute_costs(space, closest, costs=TIMED)
    all_costs = budgets.compute_costs(space, genomes, costs=TIMED)
    limits = ", ".join(
        f"{name} {int(all_costs[name].min()):,} to {int(all_costs[name].max()):,}"
        for name in budget if name != "latency"
    )  # fmt: skip
    limits = f"; all networks have {limits}" if limits else ""
    endings = []
    for i, spec in enumerate(genome.decode_all(space, closest)):
        values = ", ".join(f"{name} {budgets.format_cost(name, costs[name][i])}" for name in budget)
        endings.append(f"{values}: {spec.describe()}{limits}")
    assert str(error.value).endswith(tuple(endings)) and "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.integers(0, 2**32))
def test_repair_returns_feasible_genomes_and_keeps_feasible_ones(problem, seed):
    space, genomes, budget = problem
    feasible = violation(space, budget, genomes) == 0
    assume(feasible.any())
    rng = np.random.default_rng(seed)
    children = genome.sample(space, rng, 30, 0.5)
    repaired = operators.repair(feasible_set(space, budget, TIMED), children, rng)
    assert keys(repaired) <= keys(genomes[feasible])
    before = genome.canonical(space, children)
    unchanged = violation(space, budget, before) == 0
    assert (repaired[unchanged] == before[unchanged]).all()


@settings(max_examples=40, deadline=None)
@given(st.one_of(spaces(), elastic_spaces()), st.integers(0, 2**32), st.sampled_from(list(TIMED)))
def test_costs_are_affine_in_depth_and_width_sums(space, seed, name):
    genomes = genome.sample(space, np.random.default_rng(seed), 50)
    table = genome.width_table(space, genomes)
    stem = genomes[:, 0] * len(space.embed_widths) + genomes[:, 1]
    rows = stem, (table.num_heads > 0).sum(1), table.qkv_dim.sum(1) // 3, table.num_heads.sum(1)
    actual = affine_cost(space, TIMED[name]).evaluate(rows, table.mlp_dim.sum(1))
    assert (actual == TIMED[name](table)).all()


def test_repair_rebuilds_genomes_far_from_the_budget():
    """The budget is a single value, which no single move reaches."""
    values = np.sort(budgets.compute_costs(ONE_G, genome.sample(ONE_G, np.random.default_rng(0), 1, 0.5))["macs"])
    budget = {"macs": (int(values[0]), int(values[0]))}
    rng = np.random.default_rng(1)
    repaired = operators.repair(feasible_set(ONE_G, budget), genome.sample(ONE_G, rng, 20, 0.2), rng)
    assert (budgets.compute_costs(ONE_G, repaired)["macs"] == values[0]).all()


def test_repair_changes_few_genes():
    """Genomes just outside the budget: most need one or two genes (removing a layer shifts all layers after it)."""
    rng = np.random.default_rng(0)
    feasible = feasible_set(ONE_G, BUDGET)
    near = operators.sample_distinct(feasible_set(ONE_G, {"macs": (1_000_000_001, 1_020_000_000)}), 50, rng)
    repaired = operators.repair(feasible, near, rng)
    assert (budgets.violation(BUDGET, budgets.compute_costs(ONE_G, repaired)) == 0).all()
    assert np.median((repaired != near).sum(1)) <= 2


def test_size_without_a_budget():
    assert feasible_set(ONE_G, {}).size() == pytest.approx(genome.count_subnets(ONE_G), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_covers_space_and_budget(seed):
    genomes = operators.sample_distinct(feasible_set(ONE_G, BUDGET), 60, np.random.default_rng(seed))
    table = genome.width_table(ONE_G, genomes)
    assert np.bincount(genomes[:, 0]).min() >= 15  # three patch sizes
    assert (np.bincount(genomes[:, 1], minlength=10) >= 2).all()
    assert len(np.unique((table.num_heads > 0).sum(1))) >= 11  # of 15 that exist
    slices = np.histogram(budgets.compute_costs(ONE_G, genomes)["macs"], 6, BUDGET["macs"])[0]
    assert slices.min() >= 3


def test_sampling_is_fast():
    def seconds() -> float:
        start = time.thread_time()
        operators.sample_distinct(feasible_set(ONE_G, BUDGET), 50, np.random.default_rng(0))
        return time.thread_time() - start

    assert min(seconds() for _ in range(5)) < 0.05


def test_computing_costs_is_fast():
    """The first release takes 142 us per candidate."""
    genomes = genome.sample(ONE_G, np.random.default_rng(0), 20_000)

    def seconds() -> float:
        start = time.thread_time()
        budgets.compute_costs(ONE_G, genomes)
        return time.thread_time() - start

    assert min(seconds() for _ in range(3)) / len(genomes) < 20e-6


def test_budget_from_config():
    cfg = config.Search(macs=(0.5, 1e9), params=(1e6, 2.5e6), activations=(0, 3e7))
    expected = {"macs": (1, 10**9), "params": (10**6, 2_500_000), "activations": (0, 30_000_000)}
    assert budgets.from_config(cfg) == expected


def test_a_bound_on_activations():
    """Activations depend on heads: the rows also fix the sum of heads."""
    budget = BUDGET | {"activations": (20_000_000, 20_010_000)}
    start = time.thread_time()
    feasible = feasible_set(ONE_G, budget)
    genomes = operators.sample_distinct(feasible, 200, np.random.default_rng(0))
    assert time.thread_time() - start < 5
    assert len(keys(genomes)) == 200 and not budgets.violation(budget, budgets.compute_costs(ONE_G, genomes)).any()
    children = operators.repair(feasible, genome.sample(ONE_G, np.random.default_rng(1), 50), np.random.default_rng(2))
    assert not budgets.violation(budget, budgets.compute_costs(ONE_G, children)).any()

"""Seeds of the first generation. Reference: the same search without them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.searches import BUDGET, SMALL, each, likeness
from tests.unit.elastic.test_greedy import SCORES, SPACE
from vitas_ds.config import Search
from vitas_ds.elastic.greedy import seeds
from vitas_ds.search.baselines import uniform_genomes
from vitas_ds.search.feasible.operators import sample_distinct
from vitas_ds.search.loop import run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.ledger import in_memory


def candidates(problem: SearchProblem) -> list[Candidate]:
    return run_loop(problem, Evaluator(each(likeness), in_memory())).candidates


@pytest.mark.parametrize("algorithm", ["ga", "nsga2"])
def test_the_first_generation_starts_with_the_seeds(algorithm: str) -> None:
    cfg = Search(algorithm=algorithm, population=8, generations=3, macs=BUDGET)
    problem = SearchProblem(SMALL, cfg, 0)
    given = sample_distinct(problem.feasible, 3, np.random.default_rng(9))
    found = candidates(SearchProblem(SMALL, cfg, 0, seeds=given))
    assert np.array([c.genome for c in found[:3]]).tolist() == given.tolist()
    assert len({c.spec for c in found}) == len(found) == 24
    plain, none = candidates(problem), candidates(SearchProblem(SMALL, cfg, 0, seeds=given[:0]))
    assert [c.spec for c in plain] == [c.spec for c in none]


def test_more_seeds_than_places_are_cut() -> None:
    cfg = Search(population=4, generations=1, macs=BUDGET)
    given = sample_distinct(SearchProblem(SMALL, cfg, 0).feasible, 6, np.random.default_rng(9))
    found = candidates(SearchProblem(SMALL, cfg, 0, seeds=given))
    assert np.array([c.genome for c in found]).tolist() == given[:4].tolist()


def test_an_elastic_space_is_searched_from_its_seeds() -> None:
    cfg = Search(population=8, generations=2, macs=(58_000, 66_000))
    problem = SearchProblem(SPACE, cfg, 0)
    given = seeds(SPACE, SCORES, problem.feasible, 2)
    found = candidates(SearchProblem(SPACE, cfg, 0, seeds=given))
    assert np.array([c.genome for c in found[:2]]).tolist() == given.tolist()
    assert all(58_000 <= c.costs["macs"] <= 66_000 for c in found)


def test_uniform_networks_of_an_elastic_space() -> None:
    problem = SearchProblem(SPACE, Search(population=5, macs=(50_000, 90_000)), 0)
    rows = uniform_genomes(problem)
    assert len(rows) == 5 and not problem.feasible.violation(rows).any()
    for row in rows:
        layers = row[2:].reshape(3, 3)
        assert len({tuple(layer) for layer in layers if layer[0] < 2}) == 1

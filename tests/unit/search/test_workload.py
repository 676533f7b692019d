"""Computation of the parts of a search. Reference: counts by hand."""

from __future__ import annotations

from vitas_ds.recipe import load
from vitas_ds.search.workload import Workload, count_candidates, workload


def test_the_parts_of_a_search() -> None:
    """At 100 MACs: 16 networks for 526 steps of 128; 300 scores of 2,000 images; 8, 4, 2 finalists for 2,106 steps."""
    config = load("cifar10", [])
    check, scoring = 3 * 100 * 16 * 526 * 128, 300 * 2000 * 100
    finalists = 3 * 100 * 128 * (8 * 526 + 4 * (1053 - 526) + 2 * (2106 - 1053))
    assert workload(config, 100) == Workload(check, scoring, finalists)
    assert workload(config, 100).total == check + scoring + finalists
    assert count_candidates(config) == 300


def test_budgets_and_sides() -> None:
    """Bilateral sharing scores both sides, on all 5,000 search images; each budget has candidates and finalists."""
    words = ["supernet.sharing=bilateral", "search.images=0", "search.check.nets=0", "search.check.steps=0"]
    words.append("search.check.correct=false")
    config = load("cifar10", [*words, "search.macs=null", "search.budgets=[4M, 3M]"])
    finalists = 3 * 100 * 128 * (8 * 526 + 4 * (1053 - 526) + 2 * (2106 - 1053))
    assert workload(config, 100) == Workload(0, 2 * 300 * 5000 * 100 * 2, 2 * finalists)
    assert count_candidates(config) == 600
    without = load("cifar10", [*words, "search.finalists.count=0", "search.finalists.steps=0"])
    assert workload(without, 100) == Workload(0, 300 * 5000 * 100 * 2, 0)

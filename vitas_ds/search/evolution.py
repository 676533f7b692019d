"""The search: generation after generation is asked for, scored unless its score is known, and told. No torch.

A pure function of the seed and the scores: started again, it goes through the same generations, takes the scores that
the ledger has, and asks for the rest. So a search that was killed ends as an unbroken one, and no random state is kept.
"""
# K nets, F objectives

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vitas_ds import config, genome
from vitas_ds.search import budget as budgets
from vitas_ds.search import problem
from vitas_ds.search.feasible import feasible
from vitas_ds.search.ledger import Entry, Ledger, Score
from vitas_ds.space import SearchSpace
from vitas_ds.spec import SubnetSpec

ScoreFunction = Callable[[list[SubnetSpec]], Iterable[float | Score]]
"""Scores of some nets in their order, higher is better; what is yielded early is on disk early."""

Candidate = tuple[SubnetSpec, dict[str, int], int]
"""Net, costs, generation."""


@dataclass(frozen=True)
class Progress:
    """What is told after each generation."""

    generation: int
    generations: int
    entries: list[Entry]  # of all generations so far
    scored: int  # of this generation
    reused: int  # of this generation: their scores were in the ledger
    seconds: float  # of this generation


@dataclass(frozen=True)
class Result:
    """What a search found: all its candidates, the best, and the front of score against cost, cheapest first."""

    entries: list[Entry]
    best: Entry
    pareto: list[Entry]


def search(
    space: SearchSpace,
    cfg: config.Search,
    score: ScoreFunction,
    ledger: Ledger,
    seed: int,
    on_generation: Callable[[Progress], object] | None = None,
    images: int = 0,
) -> Result:
    """Search the space for nets of a high score inside the budget.

    Args:
        score: what candidates are worth; never called for a net that the ledger knows.
        images: the number of search images that ``score`` uses, under which the ledger files its scores.
        on_generation: called after each generation.

    Raises:
        UserError: no net of the space is inside the budget.
    """
    if cfg.objectives and cfg.algorithm != "nsga2":
        warnings.warn(f"search.objectives is ignored: search.algorithm is {cfg.algorithm}, not nsga2", stacklevel=2)
    algorithm = problem.algorithm(feasible(space, budgets.of_config(cfg)), cfg, seed)
    entries: list[Entry] = []
    for generation in range(1, cfg.generations + 1):
        begun = time.perf_counter()
        genomes = algorithm.ask()
        if not len(genomes):
            break  # every net inside the budget is scored
        new = list(_entries(candidates(space, genomes, generation), score, ledger, images))
        algorithm.tell(values(new, problem.objectives(cfg)))
        entries += new
        if on_generation is not None:
            scored = sum(entry.seconds > 0 for entry in new)
            seconds = time.perf_counter() - begun
            on_generation(Progress(generation, cfg.generations, entries, scored, len(new) - scored, seconds))
    return result_of(entries, problem.objectives(cfg))


def result_of(entries: list[Entry], objectives: Sequence[str] = ()) -> Result:
    """Best and front of some candidates; the front is against the MACs where no objective is given."""
    costs = tuple(objectives) or ("macs",)
    front = [entries[i] for i in problem.front(values(entries, costs))]
    front.sort(key=lambda entry: [entry.costs[name] for name in costs])
    return Result(entries, ranked(entries)[0], front)


def ranked(entries: list[Entry]) -> list[Entry]:
    """Best first; of equal scores the cheaper one, then the earlier one."""
    return sorted(entries, key=lambda entry: (-entry.score.value, entry.costs["macs"]))


def values(entries: list[Entry], objectives: Sequence[str]) -> np.ndarray:
    """[K, F] what is to be lowered: minus the score, then the costs."""
    return np.array([[-e.score.value, *(float(e.costs[name]) for name in objectives)] for e in entries])


def rescore(entries: list[Entry], score: ScoreFunction, ledger: Ledger, images: int) -> list[Entry]:
    """The same nets scored on another number of images (the best few on all of them), best first."""
    return ranked(list(_entries([(e.spec, e.costs, e.generation) for e in entries], score, ledger, images)))


def candidates(space: SearchSpace, genomes: np.ndarray, generation: int) -> list[Candidate]:
    """What is known of canonical genomes [K, G] before they are scored."""
    prices = budgets.prices(space, genomes)
    costs = [{name: int(value[i]) for name, value in prices.items()} for i in range(len(genomes))]
    return [(genome.decode(space, net).canonical(), cost, generation) for net, cost in zip(genomes, costs, strict=True)]


def _entries(nets: list[Candidate], score: ScoreFunction, ledger: Ledger, images: int) -> Iterator[Entry]:
    """The candidates with their scores, each in the ledger before the next one is waited for."""
    known = [ledger.find(spec, images) for spec, _, _ in nets]
    unknown = [spec for (spec, _, _), found in zip(nets, known, strict=True) if found is None]
    new = iter(score(unknown) if unknown else ())
    for (spec, costs, generation), found in zip(nets, known, strict=True):
        begun = time.perf_counter()
        value = _as_score(next(new), images) if found is None else found
        entry = Entry(spec, costs, value, generation, 0.0 if found else time.perf_counter() - begun)
        ledger.add(entry)
        yield entry
    assert next(new, None) is None, "more scores than candidates"


def _as_score(value: float | Score, images: int) -> Score:
    score = value if isinstance(value, Score) else Score(float(value), None, images)
    if not math.isfinite(score.value):
        raise ValueError(f"a candidate's score is {score.value}: the supernet computes no numbers")
    assert score.images == images, f"scored on {score.images} images, filed under {images}"
    return score

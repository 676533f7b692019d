"""The search: generation after generation is asked for, scored unless its score is known, and told.

A pure function of the seed and the scores: started again, it goes through the same generations, takes the scores that
the ledger has, and asks for the rest. So a search that was killed ends as an unbroken one, and no random state is kept.
"""
# K nets, F objectives

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vitas_ds import config
from vitas_ds.search import budget as budgets
from vitas_ds.search import problem
from vitas_ds.search.candidates import ScoreFunction, candidates, scored
from vitas_ds.search.feasible import feasible
from vitas_ds.search.ledger import Entry, Ledger
from vitas_ds.search.race import Race
from vitas_ds.space import SearchSpace


@dataclass(frozen=True)
class Progress:
    """What is told after each generation."""

    generation: int
    generations: int
    entries: list[Entry]  # of all generations so far
    scored: int  # of this generation
    reused: int  # of this generation: their scores were in the ledger
    saved: float  # share of this generation's images that racing spared
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
    race: Race | None = None,
) -> Result:
    """Search the space for nets of a high score inside the budget.

    Args:
        score: what candidates are worth; never called for a net that the ledger knows.
        images: the number of search images that ``score`` uses, under which the ledger files its scores.
        on_generation: called after each generation.
        race: drop hopeless candidates early; None: all are scored on all images. Random search has no survivors to
            race for, and ignores it with a warning.

    Raises:
        UserError: no net of the space is inside the budget.
    """
    _warn_ignored(cfg, race)
    algorithm = problem.algorithm(feasible(space, budgets.of_config(cfg)), cfg, seed)
    costs, entries = problem.objectives(cfg), list[Entry]()
    for generation in range(1, cfg.generations + 1):
        begun = time.perf_counter()
        genomes = algorithm.ask()
        if not len(genomes):
            break  # every net inside the budget is scored
        nets = candidates(space, genomes, generation)
        if race is None or cfg.algorithm == "random":
            new = list(scored(nets, score, ledger, images))
        else:
            new = race.run(nets, ledger, algorithm.survivors(), cfg.population, costs)
        algorithm.tell(values(new, costs))
        entries += new
        if on_generation is not None:
            on_generation(_progress(generation, cfg.generations, entries, new, images, time.perf_counter() - begun))
    return result_of(entries, costs)


def _warn_ignored(cfg: config.Search, race: Race | None) -> None:
    if cfg.objectives and cfg.algorithm != "nsga2":
        warnings.warn(f"search.objectives is ignored: search.algorithm is {cfg.algorithm}, not nsga2", stacklevel=3)
    if race is not None and cfg.algorithm == "random":
        warnings.warn("search.racing is ignored: random search has no survivors to race for", stacklevel=3)


def _progress(
    generation: int, generations: int, entries: list[Entry], new: list[Entry], images: int, seconds: float
) -> Progress:
    scored = sum(entry.seconds > 0 for entry in new)
    saved = 1 - sum(entry.score.images for entry in new) / (images * len(new)) if images else 0.0
    return Progress(generation, generations, entries, scored, len(new) - scored, saved, seconds)


def result_of(entries: list[Entry], objectives: Sequence[str] = ()) -> Result:
    """Best and front of the candidates scored on most images (a race drops others before); the front is against the
    MACs where no objective is given.
    """
    costs = tuple(objectives) or ("macs",)
    most = max(entry.score.images for entry in entries)
    whole = [entry for entry in entries if entry.score.images == most]
    front = [whole[i] for i in problem.front(values(whole, costs))]
    front.sort(key=lambda entry: [entry.costs[name] for name in costs])
    return Result(entries, ranked(whole)[0], front)


def ranked(entries: list[Entry]) -> list[Entry]:
    """Best first; of equal scores the cheaper one, then the earlier one."""
    return sorted(entries, key=lambda entry: (-entry.score.value, entry.costs["macs"]))


def values(entries: list[Entry], objectives: Sequence[str]) -> np.ndarray:
    """[K, F] what is to be lowered: minus the score, then the costs."""
    return np.array([[-e.score.value, *(float(e.costs[name]) for name in objectives)] for e in entries])


def rescore(entries: list[Entry], score: ScoreFunction, ledger: Ledger, images: int) -> list[Entry]:
    """The same nets scored on another number of images (the best few on all of them), best first."""
    return ranked(list(scored([(e.spec, e.costs, e.generation) for e in entries], score, ledger, images)))

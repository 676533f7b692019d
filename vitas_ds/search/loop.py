"""The search: generation after generation is asked for, scored unless its score is known, and told.

A pure function of the seed and the scores: started again, it goes through the same generations, takes the scores that
the ledger has, and asks for the rest. So a search that was killed ends as an unbroken one, and no random state is kept.
"""
# K nets, F objectives

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.distributed.comm import from_main
from vitas_ds.search import algorithms, surrogate
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import feasible
from vitas_ds.search.scoring.candidates import ScoreFunction, candidates, scored
from vitas_ds.search.scoring.ledger import Entry, Ledger
from vitas_ds.search.scoring.racing import Race


@dataclass(frozen=True)
class Progress:
    """What is told after each generation."""

    generation: int
    generations: int
    entries: list[Entry]  # of all generations so far
    scored: int  # of this generation
    reused: int  # of this generation: their scores were in the ledger
    saved: float  # share of this generation's images that racing spared
    feasible: float  # share of this generation's proposals that were inside the budget before they were mended
    seconds: float  # of this generation
    most: dict[str, float]  # the largest that each cost of the front can be: the far corner of the hypervolume
    correlation: float | None = None  # of ranks, on held-out nets: the regressor that proposes; None: there is none


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
    costs: budgets.Costs = budgets.COSTS,
) -> Result:
    """Search the space for nets of a high score inside the budget.

    Args:
        score: what candidates are worth; never called for a net that the ledger knows.
        images: the number of search images that ``score`` uses, under which the ledger files its scores.
        on_generation: called after each generation.
        race: drop hopeless candidates early; None: all are scored on all images. Random search has no survivors to
            race for, and ignores it with a warning.
        costs: what is priced, the latency among it where the budget or an objective asks for it.

    Raises:
        UserError: no net of the space is inside the budget.
    """
    _warn_ignored(cfg, race)
    inside = feasible(space, budgets.of_config(cfg, costs), costs)
    algorithm = algorithms.algorithm(inside, cfg, seed)
    lowered, asked, told = algorithms.objectives(cfg), list[np.ndarray](), list[np.ndarray]()
    entries, correlation = list[Entry](), None
    most = {name: operators.cost_range(inside, name)[1] for name in lowered or ("macs",)}
    for generation in range(1, cfg.generations + 1):
        begun = time.perf_counter()
        genomes = algorithm.ask()
        if not len(genomes):
            break  # every net inside the budget is scored
        asked.append(genomes)
        nets = candidates(space, genomes, generation, costs)
        if race is None or cfg.algorithm == "random":
            new = list(scored(nets, score, ledger, images))
            told.append(np.array([entry.score.value for entry in new]))
        else:
            new, final = race.run(nets, ledger, entries, algorithm.survivors(), cfg.population, lowered)
            told.append(final)
        algorithm.tell(values(new, lowered), np.array([entry.score.images == images for entry in new]))
        entries += new
        if on_generation is not None:
            seconds = time.perf_counter() - begun
            progress = _progress(generation, cfg.generations, entries, new, images, seconds, most)
            on_generation(replace(progress, feasible=algorithm.feasible, correlation=correlation))
        if cfg.surrogate and cfg.algorithm != "random":
            expect, correlation = _expect(space, np.concatenate(asked), np.concatenate(told), lowered, costs, seed)
            algorithm.guide(expect if correlation >= cfg.surrogate else None)
    return result_of(entries, lowered)


def _expect(
    space: SearchSpace,
    genomes: np.ndarray,
    scores: np.ndarray,
    lowered: Sequence[str],
    costs: budgets.Costs,
    seed: int,
) -> tuple[algorithms.Expect | None, float]:
    """What the scores so far let expect of other nets, and how well that ranks nets held out. Rank 0's view."""
    model, correlation = from_main(lambda: surrogate.fit(space, genomes, scores, seed))
    if model is None:
        return None, correlation

    def expect(nets: np.ndarray) -> np.ndarray:
        told = from_main(lambda: model(surrogate.features(space, nets)))
        prices = budgets.prices(space, nets, tuple(lowered), costs)
        return np.stack([-told, *(value.astype(float) for value in prices.values())], 1)

    return expect, correlation


def _warn_ignored(cfg: config.Search, race: Race | None) -> None:
    if cfg.objectives and cfg.algorithm != "nsga2":
        warnings.warn(f"search.objectives is ignored: search.algorithm is {cfg.algorithm}, not nsga2", stacklevel=3)
    if race is not None and cfg.algorithm == "random":
        warnings.warn("search.racing is ignored: random search has no survivors to race for", stacklevel=3)
    if cfg.surrogate and cfg.algorithm == "random":
        warnings.warn("search.surrogate is ignored: random search proposes at random", stacklevel=3)


def _progress(
    generation: int, generations: int, entries: list[Entry], new: list[Entry], images: int, seconds: float,
    most: dict[str, float],
) -> Progress:  # fmt: skip
    scored = sum(entry.seconds > 0 for entry in new)
    saved = 1 - sum(entry.score.images for entry in new) / (images * len(new)) if images else 0.0
    return Progress(generation, generations, entries, scored, len(new) - scored, saved, 1.0, seconds, most)


def result_of(entries: list[Entry], objectives: Sequence[str] = ()) -> Result:
    """Best and front of the candidates scored on most images (a race drops others before); the front is against the
    MACs where no objective is given.
    """
    costs, full = tuple(objectives) or ("macs",), whole(entries)
    front = [full[i] for i in algorithms.front(values(full, costs))]
    front.sort(key=lambda entry: [entry.costs[name] for name in costs])
    return Result(entries, ranked(full)[0], front)


def whole(entries: list[Entry]) -> list[Entry]:
    """Those scored on most images: scores on fewer, of nets that a race has dropped, do not compare with theirs."""
    most = max(entry.score.images for entry in entries)
    return [entry for entry in entries if entry.score.images == most]


def ranked(entries: list[Entry]) -> list[Entry]:
    """Best first; of equal scores the cheaper one, then the earlier one."""
    return sorted(entries, key=lambda entry: (-entry.score.value, entry.costs["macs"]))


def values(entries: list[Entry], objectives: Sequence[str]) -> np.ndarray:
    """[K, F] what is to be lowered: minus the score, then the costs."""
    return np.array([[-e.score.value, *(float(e.costs[name]) for name in objectives)] for e in entries])


def hypervolume(entries: list[Entry], most: dict[str, float]) -> float:
    """What the candidates dominate, as a share of score [0, 1] x each cost [0, most]; with a race, the whole ones."""
    points = values(whole(entries), tuple(most))
    return algorithms.hypervolume(points / [1.0, *most.values()], np.array([0.0, *[1.0] * len(most)]))

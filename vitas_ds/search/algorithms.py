"""The search as pymoo sees it: asks for generations of genomes, tells what they are worth. The sole pymoo import.

pymoo draws from one ``numpy`` generator that it seeds itself and hands to every operator, so that the same seed and
the same scores give the same generations.
"""
# K nets, G genes, F objectives (lower is better)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.selection import Selection
from pymoo.core.termination import NoTermination
from pymoo.indicators.hv import HV
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.pm import PM
from pymoo.problems.static import StaticProblem
from pymoo.util.nds.non_dominated_sorting import find_non_dominated

from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import Feasible

HALF = 0.5 - 1e-6  # a gene's values are the integers within half of its bounds, to the ends as well


POOL = 8  # children made for each one that is taken, where half of a generation is taken by its expected values

Expect = Callable[[np.ndarray], np.ndarray]
"""The objectives [K, F] that canonical genomes [K, G] are expected to have."""


class Algorithm(Protocol):
    """What proposes generations."""

    @property
    def feasible(self) -> float:
        """Share of the last generation's proposals that were inside the budget before they were mended."""

    def ask(self) -> np.ndarray:
        """The next generation: canonical genomes [K, G], inside the budget and new; none when none is left."""

    def tell(self, values: np.ndarray, whole: np.ndarray) -> None:
        """The objectives [K, F] of the generation asked for last, each to be lowered; only rows that are ``whole`` may
        survive, a race has dropped the others.
        """

    def survivors(self) -> np.ndarray:
        """[P, F] the objectives that the next generation competes with."""

    def guide(self, expect: Expect | None) -> None:
        """Have the next generations proposed in part by what is expected of them."""


def algorithm(inside: Feasible, cfg: config.Search, seed: int) -> Algorithm:
    """The algorithm that ``search.algorithm`` names."""
    return RandomSearch(inside, cfg.population, seed) if cfg.algorithm == "random" else Evolution(inside, cfg, seed)


class RandomSearch:
    """The baseline: every generation is a fresh even sample of the nets inside the budget."""

    def __init__(self, inside: Feasible, population: int, seed: int) -> None:
        self.inside, self.population, self.rng = inside, population, np.random.default_rng(seed)
        self.seen: set[bytes] = set()
        self.feasible = 1.0

    def ask(self) -> np.ndarray:
        genomes = operators.fresh(self.inside, self.population, self.rng, self.seen)
        self.seen.update(map(operators.key, genomes))
        return genomes

    def tell(self, values: np.ndarray, whole: np.ndarray) -> None:
        pass

    def survivors(self) -> np.ndarray:
        return np.zeros((0, 1))

    def guide(self, expect: Expect | None) -> None:
        pass


class Evolution:
    """pymoo's GA or NSGA-II with the first release's operators, two-point crossover and polynomial mutation, and with
    nets that are drawn anew in each generation.
    """

    def __init__(self, inside: Feasible, cfg: config.Search, seed: int) -> None:
        self.problem = GenomeProblem(inside, 1 + len(objectives(cfg)))
        mend, new = MendGenomes(), OnlyNew(self.problem.seen)
        kind = GA if cfg.algorithm == "ga" else NSGA2
        self.algorithm = kind(cfg.population, sample, repair=mend, eliminate_duplicates=new, output=None)
        crossover, mutation = TwoPointCrossover(prob=cfg.crossover_prob), PM(prob=1.0, eta=cfg.mutation_eta)
        selection = self.algorithm.mating.selection
        self.algorithm.mating = FullMating(
            selection,
            crossover,
            mutation,
            cfg.random_fraction,
            repair=mend,
            eliminate_duplicates=new,
            n_max_iterations=20,
        )
        self.algorithm.setup(self.problem, seed=seed, termination=NoTermination())
        self.asked = Population.empty()

    @property
    def feasible(self) -> float:
        return self.problem.unmended / max(self.problem.proposed, 1)

    def ask(self) -> np.ndarray:
        self.problem.proposed = self.problem.unmended = 0
        asked = self.algorithm.ask()
        self.asked = Population.empty() if asked is None else asked
        genomes = np.array([one.X for one in self.asked], np.int64).reshape(-1, self.problem.n_var)
        self.problem.seen.update(map(operators.key, genomes))
        return genomes

    def tell(self, values: np.ndarray, whole: np.ndarray) -> None:
        told = self.asked[whole]
        Evaluator().eval(StaticProblem(self.problem, F=values[whole]), told)
        self.algorithm.tell(infills=told)

    def survivors(self) -> np.ndarray:
        pop = self.algorithm.pop if self.algorithm.is_initialized else ()
        return np.array([one.F for one in pop], float).reshape(-1, self.problem.n_obj)

    def guide(self, expect: Expect | None) -> None:
        self.problem.expect = expect


def objectives(cfg: config.Search) -> tuple[str, ...]:
    """The costs that are lowered beside the score: those of ``search.objectives``, for NSGA-II at least the MACs."""
    return (tuple(cfg.objectives) or ("macs",)) if cfg.algorithm == "nsga2" else ()


class GenomeProblem(Problem):
    """Genes as reals that round to a gene's values; what leaves ``MendGenomes`` is integer and inside the budget."""

    def __init__(self, inside: Feasible, n_obj: int) -> None:
        sizes = inside.space.gene_sizes
        super().__init__(n_var=len(sizes), n_obj=n_obj, xl=np.full(len(sizes), -HALF), xu=sizes - 1 + HALF)
        self.inside = inside
        self.seen: set[bytes] = set()  # every genome asked for so far
        self.expect: Expect | None = None
        self.proposed, self.unmended = 0, 0  # of this generation, repeats included


def sample(problem: GenomeProblem, count: int, random_state: np.random.Generator, **_: Any) -> Population:
    """The initial population."""
    return Population.new("X", operators.fresh(problem.inside, count, random_state, problem.seen))


class MendGenomes(Repair):
    """Round, put into canonical form, bring inside the budget."""

    def _do(self, problem: GenomeProblem, X: np.ndarray, random_state: np.random.Generator, **_: Any) -> np.ndarray:
        proposed = genome.canonical(problem.inside.space, np.around(X).astype(np.int64))
        mended = operators.repair(problem.inside, proposed, random_state)
        problem.proposed += len(proposed)
        problem.unmended += int((mended == proposed).all(1).sum())
        return mended


class OnlyNew(DuplicateElimination):
    """Drop repeats: of each other, of the other populations, and of all that was ever asked for."""

    def __init__(self, seen: set[bytes]) -> None:
        super().__init__()
        self.seen = seen

    def do(self, pop: Population, *others: Population, **_: Any) -> Population:
        known = self.seen.union(operators.key(one.X) for other in others for one in other)
        return pop[operators.distinct(pop.get("X"), known)]


class FullMating(Mating):
    """Mating in which fresh nets are a share of each generation, and fill it up where there are too few new children.

    Where values are expected, half of the generation are the most promising of many more children.
    """

    def __init__(self, selection: Selection, crossover: Crossover, mutation: Mutation, fresh: float, **more: Any):
        super().__init__(selection, crossover, mutation, **more)
        self.fresh = fresh

    def do(self, problem: GenomeProblem, pop: Population, n_offsprings: int, **kwargs: Any) -> Population:
        promising = 0 if problem.expect is None else n_offsprings // 2
        plain = n_offsprings - promising - min(round(self.fresh * n_offsprings), n_offsprings - promising)
        children = super().do(problem, pop, plain + POOL * promising, **kwargs)
        if problem.expect is not None and len(children) > plain + promising:
            expected = problem.expect(np.array([one.X for one in children[plain:]], np.int64))
            children = children[np.r_[:plain, plain + best_of(expected, promising)]]
        known = problem.seen.union(operators.key(one.X) for one in children)
        more = operators.fresh(problem.inside, n_offsprings - len(children), kwargs["random_state"], known)
        return Population.merge(children, Population.new("X", more)) if len(more) else children


def front(values: np.ndarray) -> np.ndarray:
    """The places of the rows of [K, F] that no other row dominates; equal rows are all kept."""
    return find_non_dominated(values)


def best_of(values: np.ndarray, count: int) -> np.ndarray:
    """``count`` places of the rows of [K, F], front by front, each front by its first column."""
    left, taken = np.arange(len(values)), list[int]()
    while len(taken) < count and len(left):
        best = left[front(values[left])]
        taken += best[np.argsort(values[best, 0], kind="stable")].tolist()
        left = np.setdiff1d(left, best)
    return np.array(taken[:count], np.int64)


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume between the rows of [K, F] and the reference point; rows beyond it add nothing."""
    return float(HV(ref_point=reference)(values))

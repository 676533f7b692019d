"""Search algorithms behind an ask-and-tell interface. The only module that imports pymoo.

pymoo seeds one ``numpy`` generator and passes it to every operator: the same seed and the same scores give the same
generations.
"""
# K genomes, G genes, F objectives (lower is better), P survivors

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

from vitas_ds.arch import genome
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import FeasibleSet
from vitas_ds.search.problem import SearchProblem

HALF = 0.5 - 1e-6  # value v of a gene is the interval v +- HALF; below 0.5, to round to a valid value at the bounds
CHILDREN_PER_PLACE = 8  # children generated for each place of the surrogate

Predictor = Callable[[np.ndarray], np.ndarray]
"""Predicts the objective values [K, F] of canonical genomes [K, G]."""


class Algorithm(Protocol):
    """Proposes generations of genomes."""

    @property
    def feasible_share(self) -> float:
        """Share of the last generation's proposals that needed no repair to be within the budget."""

    def ask(self) -> np.ndarray:
        """Return the next generation: new canonical genomes within the budget, [K, G]; none if none are left."""

    def tell(self, values: np.ndarray, complete: np.ndarray) -> None:
        """Set the objective values of the last generation.

        Args:
            values: Objective values, [K, F].
            complete: Rows that may survive, bool [K]. Racing has dropped the others.
        """

    def survivors(self) -> np.ndarray:
        """Return the objective values [P, F] of the survivors, the rivals of the next generation."""

    def set_surrogate(self, predict: Predictor | None) -> None:
        """Set the surrogate that chooses a part of the next generations; None for none."""


def make_algorithm(problem: SearchProblem) -> Algorithm:
    """Return the algorithm named by ``search.algorithm``."""
    return RandomSearch(problem) if problem.cfg.algorithm == "random" else Evolution(problem)


class RandomSearch:
    """Random search: every generation is a new stratified sample of the subnets within the budget. A baseline."""

    def __init__(self, problem: SearchProblem) -> None:
        self.problem, self.rng = problem, np.random.default_rng(problem.seed)
        self.seen: set[bytes] = set()
        self.feasible_share = 1.0
        self.feasible = problem.feasible

    def ask(self) -> np.ndarray:
        """Return a new sample, [K, G]."""
        genomes = operators.sample_distinct(self.feasible, self.problem.cfg.population, self.rng, self.seen)
        self.seen.update(map(operators.key, genomes))
        return genomes

    def tell(self, values: np.ndarray, complete: np.ndarray) -> None:
        """Ignore the values."""

    def survivors(self) -> np.ndarray:
        """Return no rivals: random search selects no survivors."""
        return np.zeros((0, 1))

    def set_surrogate(self, predict: Predictor | None) -> None:
        """Ignore the surrogate."""


class Evolution:
    """pymoo's GA or NSGA-II (Deb et al., 2002), with random subnets in each generation.

    Crossover (two-point) and mutation (polynomial) are those of the first release.
    """

    def __init__(self, problem: SearchProblem) -> None:
        cfg = problem.cfg
        self.problem = GenomeProblem(problem.feasible, 1 + len(problem.objectives), problem.seeds)
        repair, duplicates = RepairGenomes(), DropSeen(self.problem.seen)
        algorithm = GA if cfg.algorithm == "ga" else NSGA2
        self.algorithm = algorithm(
            cfg.population, sample_genomes, repair=repair, eliminate_duplicates=duplicates, output=None
        )
        crossover, mutation = TwoPointCrossover(prob=cfg.crossover_prob), PM(prob=1.0, eta=cfg.mutation_eta)
        self.algorithm.mating = MatingWithRandom(
            self.algorithm.mating.selection,
            crossover,
            mutation,
            cfg.random_fraction,
            repair=repair,
            eliminate_duplicates=duplicates,
            n_max_iterations=20,
        )
        self.algorithm.setup(self.problem, seed=problem.seed, termination=NoTermination())
        self.asked = Population.empty()

    @property
    def feasible_share(self) -> float:
        """Share of the last generation's proposals that needed no repair to be within the budget."""
        return self.problem.unrepaired / max(self.problem.proposed, 1)

    def ask(self) -> np.ndarray:
        """Return the next generation, [K, G]."""
        self.problem.proposed = self.problem.unrepaired = 0
        asked = self.algorithm.ask()
        self.asked = Population.empty() if asked is None else asked
        genomes = np.array([individual.X for individual in self.asked], np.int64).reshape(-1, self.problem.n_var)
        self.problem.seen.update(map(operators.key, genomes))
        return genomes

    def tell(self, values: np.ndarray, complete: np.ndarray) -> None:
        """Set the objective values and select the survivors. Incomplete rows never reach pymoo."""
        infills = self.asked[complete]
        Evaluator().eval(StaticProblem(self.problem, F=values[complete]), infills)
        self.algorithm.tell(infills=infills)

    def survivors(self) -> np.ndarray:
        """Return the objective values of pymoo's population."""
        population = self.algorithm.pop if self.algorithm.is_initialized else ()
        return np.array([individual.F for individual in population], float).reshape(-1, self.problem.n_obj)

    def set_surrogate(self, predict: Predictor | None) -> None:
        """Set the surrogate for the next matings."""
        self.problem.predict = predict


class GenomeProblem(Problem):
    """pymoo's view of the problem: real-valued genes that ``RepairGenomes`` rounds to feasible genomes.

    Attributes:
        feasible: Subnets within the budget.
        seeds: Genomes of the initial population, [K, G]; the others are sampled.
        seen: Keys of all genomes returned by ``ask``.
        predict: Surrogate, if there is one.
        proposed: Number of proposals in this generation, duplicates included.
        unrepaired: Number of these that needed no repair.
    """

    def __init__(self, feasible: FeasibleSet, n_obj: int, seeds: np.ndarray | None = None) -> None:
        sizes = feasible.space.gene_sizes
        self.seeds = np.zeros((0, len(sizes)), np.int64) if seeds is None else seeds
        super().__init__(n_var=len(sizes), n_obj=n_obj, xl=np.full(len(sizes), -HALF), xu=sizes - 1 + HALF)
        self.feasible = feasible
        self.seen: set[bytes] = set()
        self.predict: Predictor | None = None
        self.proposed, self.unrepaired = 0, 0


def sample_genomes(problem: GenomeProblem, count: int, random_state: np.random.Generator, **_: Any) -> Population:
    """Return the initial population: the seeds, and random networks."""
    seeds = problem.seeds[operators.new_rows(problem.seeds, problem.seen)][:count]
    known = problem.seen.union(map(operators.key, seeds))
    sampled = operators.sample_distinct(problem.feasible, count - len(seeds), random_state, known)
    return Population.new("X", np.concatenate([seeds, sampled]))


class RepairGenomes(Repair):
    """Rounds genes, converts genomes to canonical form, and moves them into the budget."""

    def _do(self, problem: GenomeProblem, X: np.ndarray, random_state: np.random.Generator, **_: Any) -> np.ndarray:
        proposed = genome.canonical(problem.feasible.space, np.around(X).astype(np.int64))
        repaired = operators.repair(problem.feasible, proposed, random_state)
        problem.proposed += len(proposed)
        problem.unrepaired += int((repaired == proposed).all(1).sum())
        return repaired


class DropSeen(DuplicateElimination):
    """Drops duplicates: within a population, of other populations, and of all genomes returned by ``ask``."""

    def __init__(self, seen: set[bytes]) -> None:
        super().__init__()
        self.seen = seen

    def do(self, pop: Population, *others: Population, **_: Any) -> Population:
        """Return the new individuals of ``pop``."""
        known = self.seen.union(operators.key(individual.X) for other in others for individual in other)
        return pop[operators.new_rows(pop.get("X"), known)]


class MatingWithRandom(Mating):
    """Mating that adds random subnets to each generation.

    Random subnets are a fixed share of a generation. They also fill it up if mating finds too few new children. With a
    surrogate, half of the generation is the most promising part of a larger number of children.
    """

    def __init__(
        self, selection: Selection, crossover: Crossover, mutation: Mutation, random_fraction: float, **kwargs: Any
    ) -> None:
        super().__init__(selection, crossover, mutation, **kwargs)
        self.random_fraction = random_fraction

    def do(self, problem: GenomeProblem, pop: Population, n_offsprings: int, **kwargs: Any) -> Population:
        """Return the offspring."""
        promising = 0 if problem.predict is None else n_offsprings // 2
        n_random = min(round(self.random_fraction * n_offsprings), n_offsprings - promising)
        plain = n_offsprings - promising - n_random
        children = super().do(problem, pop, plain + CHILDREN_PER_PLACE * promising, **kwargs)
        if problem.predict is not None and len(children) > plain + promising:
            predicted = problem.predict(np.array([child.X for child in children[plain:]], np.int64))
            children = children[np.r_[:plain, plain + select_best(predicted, promising)]]
        known = problem.seen.union(operators.key(child.X) for child in children)
        missing = n_offsprings - len(children)
        random = operators.sample_distinct(problem.feasible, missing, kwargs["random_state"], known)
        return Population.merge(children, Population.new("X", random)) if len(random) else children


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Return the indices of the non-dominated rows of [K, F]. Equal rows are all included."""
    return find_non_dominated(values)


def select_best(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of ``count`` rows of [K, F], front by front, each front sorted by its first column."""
    remaining, selected = np.arange(len(values)), list[int]()
    while len(selected) < count and len(remaining):
        front = remaining[non_dominated(values[remaining])]
        selected += front[np.argsort(values[front, 0], kind="stable")].tolist()
        remaining = np.setdiff1d(remaining, front)
    return np.array(selected[:count], np.int64)


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume between the rows of [K, F] and the reference point. Rows beyond the point add nothing."""
    return float(HV(ref_point=reference)(values))

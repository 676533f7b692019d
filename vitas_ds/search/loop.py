"""Run the generations of a search.

The sequence of candidates is a pure function of the seed and the scores. A resumed search runs through the same
generations: it takes known scores from the ledger and computes the others. No random state is saved, and a killed
search ends with the same result as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitas_ds.search.algorithms import make_algorithm
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import Result, make_result
from vitas_ds.search.scoring.candidate import Candidate, objective_values
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.racing import Race
from vitas_ds.search.scoring.survival import Selection
from vitas_ds.search.surrogate import fit_surrogate


@dataclass(frozen=True)
class GenerationSummary:
    """State of a search after a generation.

    Attributes:
        generation: Number of the generation, from 1.
        candidates: Candidates of all generations so far.
        new: Candidates of this generation.
        images: Number of search images of a full score; 0 if scores are not measured on images.
        feasible_share: Share of this generation's proposals that needed no repair to be within the budget.
        seconds: Duration of this generation.
        max_costs: Largest feasible value of each cost of the front: reference point of the hypervolume.
        correlation: Rank correlation of the surrogate that proposed this generation, on held-out candidates; None
            without a surrogate.
    """

    generation: int
    candidates: list[Candidate]
    new: list[Candidate]
    images: int
    feasible_share: float
    seconds: float
    max_costs: dict[str, float]
    correlation: float | None = None

    @property
    def scored(self) -> int:
        """Number of this generation's candidates whose score was computed."""
        return sum(c.seconds > 0 for c in self.new)

    @property
    def reused(self) -> int:
        """Number of this generation's candidates whose score was in the ledger."""
        return len(self.new) - self.scored

    @property
    def saved(self) -> float:
        """Share of this generation's images that racing saved."""
        return 1 - sum(c.images for c in self.new) / (self.images * len(self.new)) if self.images else 0.0


def run_loop(
    problem: SearchProblem,
    evaluator: Evaluator,
    race: Race | None = None,
    on_generation: Callable[[GenerationSummary], object] | None = None,
) -> Result:
    """Search for candidates with a high score within the budget.

    Args:
        problem: Space, budget and objectives.
        evaluator: Scores candidates on all images.
        race: Scores candidates in rounds and drops hopeless ones early; None to score all on all images. Random search
            ignores it, because it selects no survivors.
        on_generation: Called after each generation.

    Raises:
        UserError: No subnet of the space is within the budget.
    """
    cfg = problem.cfg
    algorithm = make_algorithm(problem)
    candidates: list[Candidate] = []
    correlation: float | None = None
    for generation in range(1, cfg.generations + 1):
        start = time.perf_counter()
        genomes = algorithm.ask()
        if not len(genomes):
            break  # every subnet within the budget is scored
        new = problem.price(genomes, generation)
        if race is None or cfg.algorithm == "random":
            new = list(evaluator(new))
        else:
            selection = Selection(algorithm.survivors(), cfg.population, problem.objectives)
            new = race.run(new, evaluator.ledger, candidates, selection)
        algorithm.tell(objective_values(new, problem.objectives), np.array([c.images == evaluator.images for c in new]))
        candidates += new
        if on_generation is not None:
            seconds = time.perf_counter() - start
            on_generation(GenerationSummary(
                generation, candidates, new, evaluator.images, algorithm.feasible_share, seconds, problem.max_costs,
                correlation,
            ))  # fmt: skip
        if cfg.surrogate and cfg.algorithm != "random":
            surrogate, correlation = fit_surrogate(problem, candidates)
            algorithm.set_surrogate(surrogate if correlation >= cfg.surrogate else None)
    return make_result(candidates, problem.objectives)

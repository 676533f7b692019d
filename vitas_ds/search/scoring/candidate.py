"""Candidates: the subnets scored by a search."""
# K candidates, G genes, F objectives (lower is better)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import COSTS, PS_PER_SECOND


@dataclass(frozen=True)
class Score:
    """Accuracy on the search images.

    Attributes:
        value: Accuracy in [0, 1].
        stderr: Standard error of ``value``.
        images: Number of search images; 0 if the score was not measured on images.
        counts: Integers from which the score was computed, see ``score_from_counts``.
        points: Points of each image, one digit per image. Only racing needs them: it compares candidates image by
            image.
    """

    value: float
    stderr: float | None = None
    images: int = 0
    counts: tuple[int, int, int, int] | None = None
    points: str | None = None

    def __float__(self) -> float:
        return self.value


def score_from_counts(points: int, squares: int, images: int, max_points: int) -> Score:
    """Return the mean share of points and its standard error.

    Args:
        points: Sum of the images' points. An image earns one point for each side that classifies it correctly.
        squares: Sum of the images' squared points.
        images: Number of images.
        max_points: Number of images times number of sides.
    """
    sides, mean = max_points // images, points / max_points
    variance = max(squares / (images * sides**2) - mean**2, 0.0)
    return Score(mean, math.sqrt(variance / max(images - 1, 1)), images, (points, squares, images, max_points))


@dataclass(frozen=True)
class Candidate:
    """A subnet in a search. It is created when its genome is priced; ``replace`` adds the score.

    Attributes:
        spec: The subnet, in canonical form.
        costs: Costs by name: those of ``budget.COSTS`` and, if the search uses latency, the predicted latency in
            picoseconds.
        generation: Generation that proposed the candidate, counted from 1.
        score: Score on the search images; None before scoring.
        seconds: Time that scoring took; 0 if the score was known.
        genome: Canonical genome, int64 [G]; None if the candidate was read from a file.
        predicted: Predicted final score of a candidate that racing has dropped.
        supernet_score: Score as measured, if ``search.check.correct`` has replaced it; None otherwise.
    """

    spec: SubnetSpec
    costs: dict[str, int]
    generation: int
    score: Score | None = None
    seconds: float = 0.0
    genome: np.ndarray | None = field(default=None, compare=False, repr=False)
    predicted: float | None = field(default=None, compare=False)
    supernet_score: float | None = None

    @property
    def value(self) -> float:
        """Score as a number. The candidate must be scored."""
        return self._score.value

    @property
    def stderr(self) -> float | None:
        """Standard error of the score. The candidate must be scored."""
        return self._score.stderr

    @property
    def images(self) -> int:
        """Number of search images of the score. The candidate must be scored."""
        return self._score.images

    @property
    def final_value(self) -> float:
        """Score on all search images; for a candidate that racing has dropped, the predicted one."""
        return self.value if self.predicted is None else self.predicted

    @property
    def _score(self) -> Score:
        assert self.score is not None, "the candidate is not scored"
        return self.score

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as written to ``ledger.jsonl``, ``pareto.json`` and ``best.json``."""
        score = {"score": self.value, "stderr": self.stderr, "images": self.images}
        measured = {} if self.supernet_score is None else {"supernet_score": self.supernet_score}
        counts = {"counts": list(self._score.counts)} if self._score.counts else {}
        points = {"points": self._score.points} if self._score.points else {}
        origin = {"generation": self.generation, "seconds": round(self.seconds, 6)}
        return {"spec": self.spec.to_dict(), **self.reported_costs(), **score, **measured, **counts, **points, **origin}

    def reported_costs(self) -> dict[str, int | float]:
        """Return the costs as written to files: the latency is named ``predicted_latency`` and in seconds."""
        costs: dict[str, int | float] = {name: value for name, value in self.costs.items() if name != "latency"}
        if "latency" in self.costs:
            costs["predicted_latency"] = self.costs["latency"] / PS_PER_SECOND
        return costs


def candidate_from_dict(row: dict[str, Any], location: str) -> Candidate:
    """Return the candidate that ``to_dict`` wrote. A missing cost is computed from the spec.

    Raises:
        UserError: ``row`` does not describe a scored candidate. ``location`` starts the message.
    """
    try:
        spec = spec_from_dict(row["spec"], location)
        stderr = None if row["stderr"] is None else float(row["stderr"])
        counts = tuple(map(int, row["counts"])) if "counts" in row else None
        points = row.get("points")
        if points is not None and (len(points) != row["images"] or not points.isdecimal()):
            raise ValueError("points must be one digit per image")
        score = Score(float(row["score"]), stderr, int(row["images"]), counts, points)  # type: ignore[arg-type]
        return Candidate(spec, _costs_from_dict(row, spec), int(row["generation"]), score, float(row["seconds"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{location}: not a scored candidate ({type(error).__name__}: {error})") from None


def _costs_from_dict(row: dict[str, Any], spec: SubnetSpec) -> dict[str, int]:
    costs = {
        name: int(row[name]) if name in row else int(compute(WidthTable.from_specs([spec]))[0])
        for name, compute in COSTS.items()
    }
    if "predicted_latency" in row:
        costs["latency"] = round(row["predicted_latency"] * PS_PER_SECOND)
    return costs


def price(space: SearchSpace, genomes: np.ndarray, generation: int, costs: budgets.Costs = COSTS) -> list[Candidate]:
    """Return canonical genomes [K, G] as candidates with their costs, not yet scored."""
    columns = budgets.compute_costs(space, genomes, costs=costs)
    specs = [spec.canonical() for spec in genome.decode_all(space, genomes)]
    return [
        Candidate(spec, {name: int(column[i]) for name, column in columns.items()}, generation, genome=genomes[i])
        for i, spec in enumerate(specs)
    ]


def objective_values(candidates: Sequence[Candidate], objectives: Sequence[str]) -> np.ndarray:
    """Return the values to minimize, [K, F]: the negated score, then the costs named by ``objectives``."""
    rows = [[-c.value, *(float(c.costs[name]) for name in objectives)] for c in candidates]
    return np.array(rows, float).reshape(-1, 1 + len(objectives))

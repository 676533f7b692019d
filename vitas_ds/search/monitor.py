"""Report the progress of a search: metrics, estimates of the remaining time, figures and a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.run.metrics import clock
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.loop import GenerationSummary
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import fully_scored, hypervolume, ranked
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.scoring.evaluation import ScoreFunction
from vitas_ds.search.tables import COLUMNS, table_rows

DRAWING_SHARE = 0.1  # maximum share of the time spent on figures
FIRST_DRAWING = 5.0  # seconds after the start: a shorter search draws only its last generation


def with_progress(
    score: ScoreFunction, tracker: Tracker, name: str, total: int, interval: float = 10.0
) -> ScoreFunction:
    """Wrap a score function: print progress and remaining time every ``interval`` seconds.

    Args:
        score: Score function.
        tracker: Prints the lines.
        name: Label of the lines.
        total: Maximum number of candidates.
        interval: Seconds between two lines.
    """
    done, start, last = 0, time.perf_counter(), time.perf_counter()

    def reporting(specs: list[SubnetSpec]) -> Iterator[float | Score]:
        nonlocal done, last
        for value in score(specs):
            yield value  # the caller writes the score before it resumes this generator
            done, now = done + 1, time.perf_counter()
            if now - last >= interval:
                eta = clock((now - start) / done * (total - done))
                tracker.print(f"search: {name}, {done}/{total} candidates  ETA {eta}")
                last = now

    return reporting


class Monitor:
    """Reports each generation to the tracker.

    Attributes:
        tracker: Receives metrics, figures and tables.
        problem: The search problem.
        images: Number of images of a full score.
        figures: Folder for the figures; None on all ranks except 0.
        budgets: Number of budgets, each searched with as many candidates.
        later: Returns the seconds of the rest of the search, given those of all scores.
        last: Summary of the last generation.
    """

    def __init__(
        self, tracker: Tracker, problem: SearchProblem, images: int, figures: Path | None, budgets: int = 1,
        later: Callable[[float], float] = lambda scoring: 0.0,
    ) -> None:  # fmt: skip
        self.tracker, self.problem, self.images, self.figures = tracker, problem, images, figures
        self.budgets, self.later = budgets, later
        self.last: GenerationSummary | None = None
        self._best: dict[str, float] = {}  # metric "best" of the last generation
        self._drawn_generation, self._next_drawing = 0, time.monotonic() + FIRST_DRAWING
        self._computed_images, self._seconds = 0, 0.0  # since this start
        self._computed_share = 1.0  # share of the last generation's images that racing did not save
        self._before: list[Candidate] = []  # of the budgets before this one
        self._budget: dict[str, int] = {}  # metric "budget"
        self._generation = 0
        self._in_progress = 0.0  # candidates scored in this generation; a racing round counts as a fraction

    def timed(self, score: ScoreFunction, images: int) -> ScoreFunction:
        """Wrap a score function on ``images`` images: count and time the scores for the estimate of remaining time.

        Scores from the ledger do not pass through it. They take no time and would make the estimate too low.
        """

        def counted(specs: list[SubnetSpec]) -> Iterator[float | Score]:
            values, start = iter(score(specs)), time.perf_counter()
            for value in values:
                self._seconds += time.perf_counter() - start
                self._computed_images += images
                self._in_progress += images / self.images
                yield value  # the caller writes the score to disk before it resumes this generator
                self.tracker.progress(int(self._done + self._in_progress), self._current, self.seconds_left())
                start = time.perf_counter()

        return counted

    def start_budget(self, problem: SearchProblem, index: int) -> None:
        """Start with the next of several budgets. Candidates and costs include those of the budgets before it."""
        self.problem, self._budget, self._best, self._generation = problem, {"budget": index}, {}, 0
        self._before, self._drawn_generation = self.last.candidates if self.last else [], 0

    @property
    def _current(self) -> dict[str, Any]:
        """Metrics known in the middle of a generation."""
        return {"generation": self._generation + 1} | self._budget | self._best

    @property
    def _done(self) -> int:
        return len(self.last.candidates) if self.last else 0

    def seconds_left(self) -> float:
        """Estimate the remaining seconds of the search; nan before the first score that this start computed."""
        if not self._computed_images:
            return math.nan
        cfg = self.problem.cfg
        total = cfg.candidates * self.budgets
        candidates = max(total - self._done - self._in_progress, 0.0)
        seconds = self.images * self._computed_share * self._seconds / self._computed_images  # of a candidate
        return candidates * seconds + self.later(total * seconds)

    def update(self, summary: GenerationSummary) -> None:
        """Record a generation. The step of the record is the number of candidates so far."""
        own, summary = summary, self._with_earlier(summary)
        self.last, self._in_progress, self._computed_share = summary, 0.0, 1 - summary.saved
        self._generation = summary.generation
        metrics = self._metrics(summary, own.candidates)
        self._best = {"best": metrics["best"]}
        seconds = {"seconds": summary.seconds}
        self.tracker.log(len(summary.candidates), metrics | seconds, left=self.seconds_left())
        self.tracker.histogram("scores", np.array([c.value for c in summary.new]))
        if time.monotonic() > self._next_drawing or summary.generation == self.problem.cfg.generations:
            self._draw(summary)

    def _with_earlier(self, summary: GenerationSummary) -> GenerationSummary:
        """Add the candidates of the budgets before this one."""
        if not self._before or self.last is None:
            return summary
        costs = {name: max(cost, self.last.max_costs.get(name, cost)) for name, cost in summary.max_costs.items()}
        return replace(summary, candidates=[*self._before, *summary.candidates], max_costs=costs)

    def _metrics(self, summary: GenerationSummary, own: list[Candidate]) -> dict[str, Any]:
        metrics: dict[str, Any] = {
            "generation": summary.generation,
            "best": ranked(fully_scored(own))[0].value,
            "mean": np.array([c.value for c in summary.new]).mean(),
            "hypervolume": hypervolume(summary.candidates, summary.max_costs),
            "feasible": summary.feasible_share,
            "cached": summary.reused / len(summary.new),
        }
        if self.problem.cfg.racing:
            metrics["saved"] = summary.saved
        if summary.correlation is not None:
            metrics["surrogate"] = summary.correlation
        return metrics | self._budget

    def _draw(self, summary: GenerationSummary) -> None:
        """Draw figures and table of all candidates; delay the next drawing to stay below ``DRAWING_SHARE``."""
        if self.figures is None:
            return
        from vitas_ds.search.plots import save_figures  # imports matplotlib, which only rank 0 needs

        start = time.monotonic()
        for name, path in save_figures(summary, self.problem, self.figures).items():
            self.tracker.image(f"search/{name}", path)
        self.tracker.table("search/candidates", COLUMNS, table_rows(summary.candidates))
        seconds = time.monotonic() - start
        self._drawn_generation = summary.generation
        self._next_drawing = time.monotonic() + seconds * (1 / DRAWING_SHARE - 1)

    def finish(self) -> None:
        """Draw the last generation if it is not drawn yet: a small space can end the search early."""
        if self.last is not None and self._drawn_generation < self.last.generation:
            self._draw(self.last)

    def summary(self) -> dict[str, Any]:
        """Return the headline numbers of the last generation."""
        if self.last is None:
            return {}
        numbers: dict[str, Any] = {"hypervolume": hypervolume(self.last.candidates, self.last.max_costs)}
        cfg = self.problem.cfg
        if cfg.surrogate and cfg.algorithm != "random":
            numbers["surrogate"] = {"threshold": cfg.surrogate, "correlation": self.last.correlation}
        return numbers

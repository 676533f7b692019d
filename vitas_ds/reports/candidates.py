"""The candidates of a search for a page: the best ones and an even sample, of any number, in bounded memory."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.config import Config
from vitas_ds.errors.reading import open_binary
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.ledger_reader import iter_ledger
from vitas_ds.search.survivors import choices_of, shares
from vitas_ds.search.trials.correction import corrected

BEST = 2000  # candidates of the table
SAMPLE = 1000  # candidates of a chart
BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Candidates:
    """The candidates of a search, without their scores on all search images at the end.

    Attributes:
        count: Number of candidates.
        first: First generation.
        best: The best ones, best first; at most ``BEST``.
        sample: At most ``SAMPLE`` of them, evenly spaced in the order of scoring.
        front: The front, cheapest first.
        chosen: The best candidate, or that of each of several budgets; empty before the search has ended.
        shares: For each choice of the space, the share of its values in the first generation and among ``best``, at
            most as many as a generation has.
        images: Search images of all scores of the ledger, without those known from another one.
        macs: MACs of these scores, for one pass per image.
        seconds: Time in which they were computed, over all starts.
        measured: Measured latencies of the front and of the best candidates, as fields of ``best.json``.
    """

    count: int = 0
    first: int = 1
    best: list[Candidate] = field(default_factory=list)
    sample: list[Candidate] = field(default_factory=list)
    front: list[Candidate] = field(default_factory=list)
    chosen: list[Candidate] = field(default_factory=list)
    shares: dict[str, tuple[tuple[int, ...], np.ndarray, np.ndarray]] = field(default_factory=dict)
    images: int = 0
    macs: int = 0
    seconds: float = 0.0
    measured: dict[SubnetSpec, dict[str, Any]] = field(default_factory=dict)

    @property
    def shown(self) -> list[Candidate]:
        """The sample, with the front and the chosen candidate: whatever a chart draws."""
        return [*self.sample, *self.front, *self.chosen]

    def find(self, spec: SubnetSpec) -> Candidate | None:
        """Return the best or sampled candidate with this spec, or None."""
        return next((c for c in (*self.best, *self.sample) if c.spec == spec), None)


def read_candidates(run: RunDir, config: Config) -> Candidates:
    """Read the ledger of a run. It need not exist."""
    if not run.ledger.exists():
        return Candidates()
    results, front = read_json(run.best, {}), read_json(run.pareto, [])
    found = _Collector(results.get("searched_on"), -(-_count_lines(run) // SAMPLE))
    found.front_specs = {spec_from_dict(row["spec"], str(run.pareto)) for row in front}
    best_rows = [entry["top"][0] for entry in results.get("budgets", ())] or ([results] if results else [])
    found.chosen_specs = {spec_from_dict(row["spec"], str(run.best)) for row in best_rows}
    for candidate in corrected(run, iter_ledger(run.ledger)):
        found.add(candidate)
    best = [entry[-1] for entry in sorted(found.heap, reverse=True)]
    choices = choices_of(config.space)
    first, last = shares(choices, found.first), shares(choices, best[: config.search.population])
    return Candidates(
        found.count, found.first[0].generation if found.first else 1, best, found.sample,
        sorted(found.front.values(), key=lambda c: c.costs["macs"]), list(found.chosen.values()),
        {name: (values, first[name], last[name]) for name, values in choices.items()},
        found.computed_images, found.computed_macs, found.computed_seconds, _measured(run, results, front),
    )  # fmt: skip


class _Collector:
    """Picks candidates, one after the other.

    Args:
        images: Search images of a score; None: those of the first candidate.
        every: Distance of the candidates of the sample.
    """

    def __init__(self, images: int | None, every: int) -> None:
        self.images, self.every, self.count = images, every, 0
        self.computed_images = self.computed_macs = 0
        self.computed_seconds = 0.0
        self.heap: list[tuple[float, int, int, Candidate]] = []
        self.first: list[Candidate] = []
        self.sample: list[Candidate] = []
        self.front: dict[SubnetSpec, Candidate] = {}
        self.chosen: dict[SubnetSpec, Candidate] = {}
        self.front_specs: set[SubnetSpec] = set()
        self.chosen_specs: set[SubnetSpec] = set()

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate if it is among the best so far, or in the sample, or in a result of the search."""
        if candidate.seconds:
            self.computed_images += candidate.images
            self.computed_seconds += candidate.seconds
            self.computed_macs += candidate.images * candidate.costs["macs"]
        if self.images is None:
            self.images = candidate.images
        if candidate.images != self.images:  # scored again on all search images
            return
        entry = candidate.value, -candidate.costs["macs"], -self.count, candidate  # the order of ``ranked``
        (heapq.heappush if len(self.heap) < BEST else heapq.heappushpop)(self.heap, entry)
        if not self.first or candidate.generation < self.first[0].generation:
            self.first = []
        if not self.first or (candidate.generation == self.first[0].generation and len(self.first) < BEST):
            self.first.append(candidate)
        if self.count % self.every == 0:
            self.sample.append(candidate)
        if candidate.spec in self.front_specs:
            self.front[candidate.spec] = candidate
        if candidate.spec in self.chosen_specs:
            self.chosen[candidate.spec] = candidate
        self.count += 1


def _count_lines(run: RunDir) -> int:
    with open_binary(run.ledger) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))


def _measured(run: RunDir, results: dict[str, Any], front: list[dict[str, Any]]) -> dict[SubnetSpec, dict[str, Any]]:
    of_file = {run.pareto: front, run.best: [*results.get("top", ()), *results.get("dropped", ())]}
    return {
        spec_from_dict(row["spec"], str(file)): row
        for file, rows in of_file.items()
        for row in rows
        if "latency" in row
    }

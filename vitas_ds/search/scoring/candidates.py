"""Nets on their way to a score."""
# K nets, G genes

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.scoring.ledger import Entry, Ledger, Score

ScoreFunction = Callable[[list[SubnetSpec]], Iterable[float | Score]]
"""Scores of some nets in their order, higher is better; what is yielded early is on disk early."""

Candidate = tuple[SubnetSpec, dict[str, int], int]
"""Net, costs, generation."""


def candidates(
    space: SearchSpace, genomes: np.ndarray, generation: int, costs: budgets.Costs = budgets.COSTS
) -> list[Candidate]:
    """What is known of canonical genomes [K, G] before they are scored."""
    prices = budgets.prices(space, genomes, costs=costs)
    priced = [{name: int(value[i]) for name, value in prices.items()} for i in range(len(genomes))]
    nets = [net.canonical() for net in genome.decode_all(space, genomes)]
    return [(net, price, generation) for net, price in zip(nets, priced, strict=True)]


def scored(nets: list[Candidate], score: ScoreFunction, ledger: Ledger, images: int) -> Iterator[Entry]:
    """The candidates with their scores on so many images, each in the ledger before the next one is waited for.

    ``score`` is asked for those that the ledger does not know.
    """
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

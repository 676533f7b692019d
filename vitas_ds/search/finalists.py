"""Measure and score the best candidates again at the end of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import PICO, Budget
from vitas_ds.search.latency.calibration import Timing
from vitas_ds.search.loop import Result, ranked, result_of, whole
from vitas_ds.search.scoring.candidates import ScoreFunction, scored
from vitas_ds.search.scoring.ledger import Entry, Ledger


@dataclass(frozen=True)
class Confirmed:
    """A search's result after its front and best nets were measured; ``dropped`` are those found outside."""

    result: Result
    seconds: dict[str, float]  # by net, see ``Latencies``
    dropped: list[Entry]


def confirm(result: Result, objectives: Sequence[str], best: int, timing: Timing, budget: Budget) -> Confirmed:
    """Measure the front and the ``best`` first nets; those outside leave, and who takes their place is measured too.

    Raises:
        UserError: no candidate is inside by measurement.
    """
    low, high = budget.get("latency", (0, budgets.LONGEST))
    entries, dropped = result.entries, list[Entry]()
    while True:
        wanted = list({e.spec: e for e in [*result.pareto, *ranked(whole(entries))[:best]]}.values())
        seconds = timing.measured([e.spec for e in wanted])
        out = [e for e, s in zip(wanted, seconds.tolist(), strict=True) if not low <= s * PICO <= high]
        if not out:
            return Confirmed(result, timing.measured.known, dropped)
        dropped += out
        gone = {e.spec for e in out}
        entries = [e for e in entries if e.spec not in gone]
        if all(e.score.images != result.best.score.images for e in entries):
            raise UserError(_none_inside(dropped, timing, low, high))
        result = result_of(entries, objectives)


def _none_inside(dropped: list[Entry], timing: Timing, low: int, high: int) -> str:
    seconds = timing.measured([e.spec for e in dropped]) * PICO
    nearest = seconds[np.argmin(np.maximum(low - seconds, seconds - high))]
    return (
        f"{budgets.describe({'latency': (low, high)})}: no candidate is inside by measurement; the nearest takes "
        f"{budgets.amount('latency', nearest)}, and the prediction is {timing.predictor.error:.1%} off on average"
    )


def rescore(entries: list[Entry], score: ScoreFunction, ledger: Ledger, images: int) -> list[Entry]:
    """The same nets scored on another number of images (the best few on all of them), best first."""
    return ranked(list(scored([(e.spec, e.costs, e.generation) for e in entries], score, ledger, images)))

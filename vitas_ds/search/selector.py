"""Which net of a search is meant by a word: ``search:best``, ``search:pareto[3]``, ``search:macs<1.3G``. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitas_ds.errors import UserError
from vitas_ds.search.feasible.budget import COSTS, PICO

ALLOWED = "allowed: search:best, search:best[N], search:pareto[N], or a bound like search:macs<1.3G"
UNITS = {"": 1, "m": 1e-3, "K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Listed:
    """A place in a list: ``best`` is counted from 1, ``pareto`` from 0."""

    list: str
    index: int


@dataclass(frozen=True)
class Bound:
    """The best net of less ``cost`` than ``limit`` (of a latency picoseconds); of so much too, if ``included``."""

    cost: str
    included: bool
    limit: float


def parse(word: str) -> Listed | Bound:
    """The choice that ``retrain.spec`` states. Raises ``UserError`` if it is none."""
    bound = re.fullmatch(rf"search:({'|'.join(COSTS)}|latency)\s*(<=?)\s*([0-9.eE+-]+)\s*([mKMG]?)", word)
    listed = re.fullmatch(r"search:(best|pareto)(?:\[(\d+)\])?", word)
    if listed and word != "search:pareto":
        return Listed(listed[1], int(listed[2]) if listed[2] else 1)
    if not bound:
        raise UserError(f"retrain.spec: {word!r} names no net; {ALLOWED}")
    cost, sign, number, unit = bound.groups()
    try:
        limit = float(number) * UNITS[unit]
    except ValueError:
        raise UserError(f"retrain.spec: {word}: {number} is not a number") from None
    return Bound(cost, sign == "<=", limit * (PICO if cost == "latency" else 1))

"""Parse the choice of a search result: ``search:best``, ``search:pareto[3]``, ``search:macs<1.3G``.

Importing this module does not import torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitas_ds.errors import UserError
from vitas_ds.search.feasible.budget import COSTS, PS_PER_SECOND

ALLOWED = "allowed: search:best, search:best[N], search:pareto[N], or a bound like search:macs<1.3G"
UNITS = {"": 1, "m": 1e-3, "K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class ListEntry:
    """An entry of ``best`` (counted from 1) or ``pareto`` (counted from 0)."""

    name: str
    index: int


@dataclass(frozen=True)
class Bound:
    """The best candidate below a bound on one cost.

    Attributes:
        cost: Name of the cost.
        inclusive: Whether the limit itself is allowed.
        limit: The bound; in picoseconds for the latency.
    """

    cost: str
    inclusive: bool
    limit: float


def parse_choice(text: str) -> ListEntry | Bound:
    """Parse a value of ``retrain.spec`` that starts with ``search:``.

    Raises:
        UserError: ``text`` is not a valid choice.
    """
    bound = re.fullmatch(rf"search:({'|'.join(COSTS)}|latency)\s*(<=?)\s*([0-9.eE+-]+)\s*([mKMG]?)", text)
    entry = re.fullmatch(r"search:(best|pareto)(?:\[(\d+)\])?", text)
    if entry and text != "search:pareto":
        return ListEntry(entry[1], int(entry[2]) if entry[2] else 1)
    if not bound:
        raise UserError(f"retrain.spec: {text!r} does not name a candidate; {ALLOWED}")
    cost, operator, number, unit = bound.groups()
    try:
        limit = float(number) * UNITS[unit]
    except ValueError:
        raise UserError(f"retrain.spec: {text}: {number} is not a number") from None
    return Bound(cost, operator == "<=", limit * (PS_PER_SECOND if cost == "latency" else 1))

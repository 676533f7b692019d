"""Parse the choice of a search result, such as ``search:best``, ``search:pareto[3]`` or ``search:macs<1.3G``.

The folder of another run may come first: ``runs/a:search:best``. Several entries are several networks, one run each:
``search:pareto[0,2,5]``; ``search:budgets`` are the best networks of all budgets.

Importing this module does not import torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitas_ds.config.limits import UNITS
from vitas_ds.errors import UserError
from vitas_ds.search.feasible.budget import COSTS, PS_PER_SECOND

ALLOWED = (
    "allowed: search:best, search:best[N], search:pareto[N], search:pareto[0,2], search:budget[N], search:budgets, a "
    "bound like search:macs<1.3G, or one of another run, RUN:search:..."
)
MARK = "search:"
UNIT_LETTERS = "".join(UNITS)
ALL_BUDGETS = "search:budgets"


@dataclass(frozen=True)
class ListEntry:
    """An entry of ``best`` (counted from 1), or of ``pareto`` or ``budget`` (counted from 0)."""

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


@dataclass(frozen=True)
class Source:
    """A choice and where it comes from.

    Attributes:
        run: Folder of the run whose search it names; "" for the run itself.
        choice: ``search:...``, which may name several entries.
    """

    run: str
    choice: str

    def single(self, budgets: int = 0) -> list[tuple[str, str]]:
        """Return the suffix of the run name and the choice of each network; "" for a choice of one network.

        The network of a single budget has a suffix too: more budgets may follow, and the run keeps its settings.

        Args:
            budgets: Number of budgets of the search.
        """
        if self.choice == ALL_BUDGETS:
            return [(f"-budget{i}", f"search:budget[{i}]") for i in range(budgets)]
        found = re.fullmatch(r"search:(best|pareto|budget)\[\s*(\d+(?:\s*,\s*\d+)+)\s*\]", self.choice)
        if not found:
            return [("", self.choice)]
        indices = dict.fromkeys(int(index) for index in found[2].split(","))
        return [(f"-{found[1]}{index}", f"search:{found[1]}[{index}]") for index in indices]


def find_source(spec: str) -> Source | None:
    """Return the choice in a value of ``retrain.spec``; None if it does not name a search result."""
    if spec.startswith(MARK):
        return Source("", spec)
    run, found, choice = spec.rpartition(f":{MARK}")
    return Source(run, MARK + choice) if found else None


def parse_choice(text: str) -> ListEntry | Bound:
    """Parse a value of ``retrain.spec`` that starts with ``search:``.

    Raises:
        UserError: ``text`` is not a valid choice.
    """
    bound = re.fullmatch(rf"search:({'|'.join(COSTS)}|latency)\s*(<=?)\s*([0-9.eE+-]+)\s*([{UNIT_LETTERS}]?)", text)
    entry = re.fullmatch(r"search:(best|pareto|budget)(?:\[(\d+)\])?", text)
    if entry and text not in ("search:pareto", "search:budget"):
        return ListEntry(entry[1], int(entry[2]) if entry[2] else 1)
    if not bound:
        raise UserError(f"retrain.spec: {text!r} does not name a candidate; {ALLOWED}")
    cost, operator, number, unit = bound.groups()
    try:
        limit = float(number) * UNITS[unit]
    except ValueError:
        raise UserError(f"retrain.spec: {text}: {number} is not a number") from None
    return Bound(cost, operator == "<=", limit * (PS_PER_SECOND if cost == "latency" else 1))

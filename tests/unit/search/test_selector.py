"""Choices of a search result, of this run or another one.

Reference: values written by hand.
"""

from __future__ import annotations

import pytest

from vitas_ds.errors import UserError
from vitas_ds.search.selector import Bound, ListEntry, Source, find_source, parse_choice


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("search:best", Source("", "search:best")),
        ("runs/a:search:best", Source("runs/a", "search:best")),
        ("/x/a:b:search:macs<1.3G", Source("/x/a:b", "search:macs<1.3G")),
        ("vitas-a", None),
        ("runs/a/spec.json", None),
    ],
)
def test_source(spec: str, expected: Source | None) -> None:
    assert find_source(spec) == expected


def test_several_networks() -> None:
    assert Source("", "search:best").single() == [("", "search:best")]
    assert Source("", "search:pareto[3]").single() == [("", "search:pareto[3]")]
    several = Source("runs/a", "search:pareto[0, 2,5,2]").single()
    assert several == [(f"-pareto{i}", f"search:pareto[{i}]") for i in (0, 2, 5)]
    for count in (1, 2):  # one budget, to which others may be added, has the same name
        budgets = Source("", "search:budgets").single(count)
        assert budgets == [(f"-budget{i}", f"search:budget[{i}]") for i in range(count)]


def test_choices() -> None:
    assert parse_choice("search:best") == ListEntry("best", 1)
    assert parse_choice("search:pareto[0]") == ListEntry("pareto", 0)
    assert parse_choice("search:macs<=1.3G") == Bound("macs", True, 1.3e9)
    for unit, factor in {"": 1, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.items():
        assert parse_choice(f"search:macs<700{unit}") == Bound("macs", False, 700 * factor)
    for wrong in ("search:pareto", "search:pareto[0,]", "search:pareto[-1]", "search:worst", "search:pareto[0,1]"):
        with pytest.raises(
            UserError, match=r"does not name a candidate; allowed: .*search:pareto\[0,2\].*, RUN:search:\.\.\.$"
        ):
            parse_choice(wrong)

"""A search with any score function.

References: the same search through ``run_loop``, and a count of the calls.
"""

from __future__ import annotations

import pydantic
import pytest

from tests.helpers import searches
from vitas_ds.config import Search
from vitas_ds.errors import UserError
from vitas_ds.search.custom import search_nets
from vitas_ds.search.scoring.ledger import in_memory

SETTINGS = {"macs": searches.BUDGET, "population": 10, "generations": 4}


@pytest.mark.parametrize("algorithm", ["ga", "nsga2", "random"])
def test_equals_the_search_of_the_stage(algorithm):
    calls, generations = [], []

    def score(spec):
        calls.append(spec.key())
        return searches.likeness(spec)

    found = search_nets(
        searches.SMALL,
        score,
        3,
        lambda summary: generations.append(summary.generation),
        algorithm=algorithm,
        **SETTINGS,
    )
    cfg = Search(algorithm=algorithm, **SETTINGS)
    expected = searches.search(searches.SMALL, cfg, searches.each(searches.likeness), in_memory(), seed=3)
    assert [(c.spec, c.value) for c in found.candidates] == [(c.spec, c.value) for c in expected.candidates]
    assert found.best.spec == expected.best.spec and generations == [1, 2, 3, 4]
    assert len(calls) == len(set(calls)) and searches.all_within_budget(searches.SMALL, cfg, found.candidates)


def test_an_impossible_budget_is_refused():
    with pytest.raises(UserError, match="within the budget"):
        search_nets(searches.SMALL, searches.likeness, macs=(1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency": (0, 1)}, "^search_nets: latency: latencies are measured by the stage search only; use a budget"),
        ({"throughput": (1, 9)}, "^search_nets: throughput: latencies are measured"),
        ({"algorithm": "nsga2", "objectives": ("macs", "latency")}, "^search_nets: objectives: latencies are measured"),
    ],
)
def test_settings_that_need_measurements_are_one_line(settings, message):
    with pytest.raises(UserError, match=message) as error:
        search_nets(searches.SMALL, searches.likeness, **SETTINGS | settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"racing": 0.9}, {"images": 7}, {"checkpoint": "runs/a"}, {"finalists": {"count": 2, "steps": 4}},
        {"objectives": ("macs",)}, {"latency_nets": 12}, {"baselines": True},
    ],
)  # fmt: skip
def test_settings_without_effect_are_warnings(settings):
    (name,) = settings
    with pytest.warns(UserWarning, match=f"^search_nets: {name} is ignored: ") as found:
        search_nets(searches.SMALL, searches.likeness, **SETTINGS | settings | {"generations": 1})
    assert len(found) == 1 and found[0].filename == __file__


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_one_line(value):
    with pytest.raises(UserError, match=rf"^the score of a candidate is {value}; scores must be finite \(.*layers"):
        search_nets(searches.SMALL, lambda spec: value, **SETTINGS)


def test_an_unknown_setting_is_refused():
    with pytest.raises(pydantic.ValidationError, match="generation"):
        search_nets(searches.SMALL, searches.likeness, macs=searches.BUDGET, generation=3)

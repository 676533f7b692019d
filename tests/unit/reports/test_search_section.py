"""The chart of candidates: budget, standard errors, other costs, latencies.

Reference: the candidates of the ledger.
"""

import re

import pytest

from tests.helpers.runs import search
from vitas_ds.reports import search_section
from vitas_ds.reports.candidates import read_candidates
from vitas_ds.reports.svg import short
from vitas_ds.run.files import read_json, write_json


@pytest.fixture
def found(config):
    return read_candidates(search(config)[0], config)


def test_the_budget_and_the_standard_error(found, config):
    """Candidates cost about 0.1 to 2 million MACs; the limit of a billion is far outside the chart."""
    macs = sorted(c.costs["macs"] for c in found.sample)
    limited = config.search.model_copy(update={"macs": (macs[3], 1e9)})
    chart = search_section.candidates_chart(found, limited)
    assert chart.count(f"budget: {short(macs[3])} MACs") == 2 and chart.count("budget: ") == 2
    assert "61.0% ± 1.0%" in chart
    assert "budget" not in search_section.candidates_chart(found, config.search)


def test_every_limited_cost_has_a_chart(found, config):
    assert search_section.shown_costs(config.search) == ["macs"]
    limited = config.search.model_copy(update={"vitas_flops": (1.0, 2e9), "objectives": ("params",)})
    assert search_section.shown_costs(limited) == ["macs", "vitas_flops", "params"]
    chart = search_section.candidates_chart(found, limited, "params")
    assert "parameters</text>" in chart and "<polyline" not in search_section.candidates_chart(found, limited)


def test_measured_latencies_are_next_to_the_predicted_ones(config):
    """A batch was measured at 4 ms, 1 ms above its prediction; the budget is 4.2 ms."""
    run, _ = search(config)
    row = read_json(run.best, {}) | {"predicted_latency": 3e-3, "latency": 4e-3, "latency_spread": 1e-4}
    write_json(run.best, row | {"top": [row]})
    lines = run.ledger.read_text().replace('"score"', '"predicted_latency": 0.003, "score"').splitlines()
    run.ledger.write_text("".join(re.sub(r', "sha256": "\w+"', "", line) + "\n" for line in lines))
    limited = config.search.model_copy(update={"latency": (1e-3, 4.2e-3)})
    chart = search_section.candidates_chart(read_candidates(run, config), limited, "latency")
    assert chart.count("measured 4 ms") == 1 and chart.count("predicted 3 ms") == 12 + 1 + 1
    assert "candidate, by latency<" in chart and "latency of a batch [ms]" in chart
    assert chart.count("budget: 4.2 ms") == 2

"""Memory and size of the page of a large run. ``tests/benchmarks/bench_report.py`` measures the time.

Reference: the limits in the manual.
"""

import pytest

from tests.helpers.large_runs import repeat_candidates, repeat_metrics, report_cost
from tests.helpers.runs import search, train

MAX_MEMORY, MAX_SIZE = 300e6, 3e6  # bytes


@pytest.mark.parametrize("count", [1000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_many_candidates(config, count):
    run, _ = search(config)
    repeat_candidates(run.ledger, count)
    _, memory, size = report_cost(run)
    assert memory < MAX_MEMORY and size < MAX_SIZE
    note = "All 1,000 candidates" if count == 1000 else f"The best 2,000 of {count:,} candidates"
    assert note in run.report.read_text()


def test_a_million_records(config):
    run = train(config, "train-supernet", steps=600)
    repeat_metrics(run, 1_000_000)
    _, memory, size = report_cost(run)
    assert memory < MAX_MEMORY and size < MAX_SIZE

"""The remaining time of the finalists. Reference: work by hand."""

from __future__ import annotations

import math
import time

import pytest

from tests.helpers.finalists import ListTracker
from vitas_ds.config import Search
from vitas_ds.distributed.groups import Group
from vitas_ds.search.trials.plan import Rung
from vitas_ds.search.trials.progress import ProgressReport

CFG = Search(population=6, generations=2)


def test_budgets_to_come_have_as_much_work():
    """Two candidates for 10 and one for 10 more steps, at 100 MACs; 500 of 3,000 MACs after 2 s, 6,000 to come."""
    tracker = ListTracker()
    report = ProgressReport(CFG, tracker, [Rung(2, 10), Rung(1, 20)], {0: 100, 1: 100}, 1, after=2)
    report.start_rung(0, {0: 10, 1: 10}, Group(0, 1))
    report._start = time.monotonic() - 2
    report.of(0, 0)(5, 0.5)
    assert report.seconds_left() == pytest.approx((2_500 + 6_000) / 500 * 2, rel=0.1)


def test_remaining_time_of_two_ranks():
    """Four candidates of 100 MACs to step 10, two to step 20: each rank computes 2 * 10 and then 10 steps."""
    tracker = ListTracker()
    report = ProgressReport(CFG, tracker, [Rung(4, 10), Rung(2, 20)], dict.fromkeys(range(4), 100), 2)
    assert math.isnan(report.seconds_left())
    before = time.monotonic()
    report.start_rung(0, dict.fromkeys(range(4), 10), Group(0, 2))
    start = time.monotonic()
    time.sleep(0.2)
    least = time.monotonic() - start
    report.of(0, 0)(5, 1.0)
    most = time.monotonic() - before
    assert least * (15 + 10) / 5 <= tracker.left[0] <= most * (15 + 10) / 5 and len(tracker.left) == 1


def test_a_group_of_two_ranks_halves_the_work():
    """One candidate left: a resumed rung, of which step 12 of 20 is done."""
    tracker = ListTracker()
    report = ProgressReport(CFG, tracker, [Rung(2, 10), Rung(1, 20)], {0: 100, 1: 300}, 2)
    before = time.monotonic()
    report.start_rung(1, {1: 8}, Group(0, 1, 0, 2))
    start = time.monotonic()
    time.sleep(0.2)
    least, train = time.monotonic() - start, report.of(1, 12)
    train(16, 1.0)
    assert least * 4 / 4 <= tracker.left[0] <= (time.monotonic() - before) * 4 / 4 and len(tracker.left) == 1
    train(20, 1.0)
    assert tracker.left[1] == 0


def test_skipped_steps_are_reported():
    tracker = ListTracker()
    report = ProgressReport(CFG, tracker, [Rung(2, 10)], {0: 100, 1: 300}, 1)
    row = {"candidate": 1, "rung": 1, "step": 10, "accuracy": 0.5, "stderr": 0.1, "loss": 1.0, "seconds": 1.0}
    rows = [row | {"skipped": 0, "goes_on": False}, row | {"candidate": 2, "skipped": 3, "goes_on": False}]
    report.finish_rung(0, rows)
    assert tracker.lines[1:] == ["search: finalist 2: 3 steps skipped, gradient not finite"]
    assert list(tracker.logged) == [13, 14] and tracker.logged[14]["finalist"] == 2

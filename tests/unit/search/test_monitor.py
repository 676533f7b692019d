"""Progress of a search: remaining time, metrics and figures.

Reference: counts and times by hand.
"""

import math
import time

import pytest

from tests.helpers.searches import BUDGET, SMALL, likeness, search
from vitas_ds.arch.space import SearchSpace
from vitas_ds.config import Search
from vitas_ds.run.tracker import Tracker
from vitas_ds.search.monitor import Monitor, with_progress
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.scoring.ledger import Ledger, in_memory

CFG = Search(population=6, generations=5, macs=BUDGET)
NAP = 0.004  # seconds per score


class Recorder(Tracker):
    """Keeps its arguments."""

    def __init__(self):
        self.records, self.lines, self.tables, self.now, self.said = [], [], [], [], []

    def log(self, step, values, *, images=0, left=None):
        self.records.append((step, values, left))

    def progress(self, step, values, left):
        self.lines.append((step, left))
        self.now.append((step, values))

    def print(self, text):
        self.said.append(text)

    def table(self, name, columns, rows):
        self.tables.append(len(rows))


def slow(specs):
    for spec in specs:
        time.sleep(NAP)
        yield likeness(spec)


def monitored(ledger: Ledger, cfg: Search = CFG, space: SearchSpace = SMALL, figures=None):
    recorder = Recorder()
    monitor = Monitor(recorder, SearchProblem(space, cfg, 0), 10, figures)
    result = search(space, cfg, monitor.timed(slow, 10), ledger, 0, monitor.update, 10)
    monitor.finish()
    return recorder, result


def test_the_estimate_of_remaining_time_ignores_known_scores():
    """After resuming, known scores take no time and must not make the estimate too low."""
    unbroken, _ = monitored(in_memory())
    assert [step for step, _, _ in unbroken.records] == [6, 12, 18, 24, 30]
    assert [step for step, _ in unbroken.lines] == list(range(1, 31))
    assert unbroken.records[-1][2] == 0 and unbroken.lines[0][1] >= 29 * NAP
    ledger = in_memory()
    search(SMALL, CFG.model_copy(update={"generations": 3}), slow, ledger, 0, images=10)
    resumed, _ = monitored(ledger)
    assert all(math.isnan(left) for _, _, left in resumed.records[:3])
    assert all(left >= (30 - step) * NAP for step, _, left in resumed.records[3:])
    assert [step for step, _ in resumed.lines] == list(range(19, 31)) and resumed.lines[0][1] >= 11 * NAP


def test_the_estimate_includes_the_finalists():
    """They take twice as long as the scores of all 30 candidates."""
    recorder = Recorder()
    monitor = Monitor(recorder, SearchProblem(SMALL, CFG, 0), 10, None, later=lambda scoring: 2 * scoring)
    search(SMALL, CFG, monitor.timed(slow, 10), in_memory(), 0, monitor.update, 10)
    for step, _, left in recorder.records:
        seconds = monitor._seconds / 30
        assert left == pytest.approx((30 - step + 2 * 30) * seconds, rel=0.5)


def test_the_share_of_feasible_proposals_is_a_metric():
    shares = [values["feasible"] for _, values, _ in monitored(in_memory())[0].records]
    assert shares[0] == 1 and 0 < min(shares) < 1
    wide = Search(population=6, generations=5)
    assert [values["feasible"] for _, values, _ in monitored(in_memory(), wide)[0].records] == [1.0] * 5


def test_the_last_generation_is_drawn_if_the_space_is_exhausted(tmp_path):
    few = SearchSpace(**SMALL.model_dump() | {"depth": 1, "patch_sizes": (8,), "num_heads": (1,), "ratios": (0.5, 1.0)})
    recorder, result = monitored(in_memory(), Search(population=6, generations=50), few, tmp_path)
    assert len(result.candidates) < 300 and recorder.tables[-1] == len(result.candidates)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["front.png", "progress.png", "survivors.png"]


def test_progress_lines_belong_to_the_current_generation():
    """They include the best score so far, but no other metric of the last generation."""
    recorder, _ = monitored(in_memory())
    records = {step: values for step, values, _ in recorder.records}
    for step, values in recorder.now:
        before = (step - 1) // 6 * 6
        assert values["generation"] == before // 6 + 1
        assert values.get("best") == (records[before]["best"] if before else None)
        assert set(values) <= {"generation", "best"}


def test_progress_counts_only_scores_on_disk():
    """A user who reads a progress line and kills the search keeps all scores in the line."""
    ledger, counts = in_memory(), []

    class Counter(Recorder):
        def progress(self, step, values, left):
            counts.append((step, len(ledger.own)))

    monitor = Monitor(Counter(), SearchProblem(SMALL, CFG, 0), 10, None)
    search(SMALL, CFG, monitor.timed(slow, 10), ledger, 0, images=10)
    assert counts == [(step, step) for step in range(1, 31)]


def test_baselines_print_their_progress(monkeypatch):
    """With a clock that advances by one second per score."""
    recorder, seconds = Recorder(), 0
    specs = [c.spec for c in monitored(in_memory())[1].candidates]

    def ticking(specs):
        nonlocal seconds
        for spec in specs:
            seconds += 1
            yield likeness(spec)

    monkeypatch.setattr(time, "perf_counter", lambda: seconds)
    score = with_progress(ticking, recorder, "baselines", 40, interval=3)
    assert [*score(specs[:10]), *score(specs[10:])] == [likeness(spec) for spec in specs]
    assert recorder.said == [f"search: baselines, {n}/40 candidates  ETA 0:{40 - n:02}" for n in range(3, 31, 3)]

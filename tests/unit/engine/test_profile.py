"""Profiles of training steps: the trace contains the operators of these steps and of no others."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from vitas_ds.config import Profile
from vitas_ds.engine.profile import StepProfiler
from vitas_ds.errors import UserError


def train(profiler: StepProfiler, first: int, total: int) -> list[int]:
    """Run steps ``first`` to ``total``. Returns the steps after which a trace was written."""
    written = []
    for step in range(first, total + 1):
        profiler.before(step)
        x = torch.ones(8, 8)
        x = x @ x if step < 4 else torch.linalg.matrix_exp(0 * x)
        if profiler.after(step) is not None:
            written.append(step)
    return written


def operators(trace: Path) -> set[str]:
    with gzip.open(trace) as file:
        return {event["name"] for event in json.load(file)["traceEvents"] if event.get("cat") == "cpu_op"}


def test_the_trace_has_the_steps_asked_for(tmp_path: Path) -> None:
    trace = tmp_path / "stage" / "trace.json.gz"
    assert train(StepProfiler(Profile(start=2, steps=2), trace, 6, cuda=False), 1, 6) == [3]
    assert "aten::mm" in operators(trace) and "aten::linalg_matrix_exp" not in operators(trace)


def test_a_resumed_run_profiles_the_steps_that_are_left(tmp_path: Path) -> None:
    trace, outside = tmp_path / "trace.json.gz", tmp_path / "outside"
    trace.symlink_to(outside)
    settings = Profile(start=2, steps=4)
    assert train(StepProfiler(settings, trace, 6, cuda=False), 4, 6) == [5]
    assert "aten::linalg_matrix_exp" in operators(trace) and "aten::mm" not in operators(trace)
    assert not outside.exists()  # the trace replaces the link
    with pytest.warns(UserWarning, match="engine.profile is ignored: step 5 is done already"):
        assert train(StepProfiler(settings, trace, 6, cuda=False, done=5), 6, 6) == []


def test_the_most_expensive_operators_come_first(tmp_path: Path) -> None:
    profiler = StepProfiler(Profile(start=1, steps=1), tmp_path / "trace.json.gz", 1, cuda=False)
    profiler.before(1)
    x = torch.ones(600, 600)
    for _ in range(3):
        x = x @ x
    rows = profiler.after(1)
    assert rows and rows[0]["name"] == "aten::mm" and rows[0]["calls"] == 3
    assert 0 < sum(row["share"] for row in rows) <= 1.0001 and len(rows) <= 5
    assert [row["seconds"] for row in rows] == sorted((row["seconds"] for row in rows), reverse=True)


def test_off_by_default(tmp_path: Path) -> None:
    assert train(StepProfiler(Profile(), tmp_path / "trace.json.gz", 3, cuda=False), 1, 3) == []
    assert not list(tmp_path.iterdir())


def test_a_start_without_steps_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="engine.profile.start is ignored: engine.profile.steps is 0"):
        StepProfiler(Profile(start=3), tmp_path / "trace.json.gz", 9, cuda=False)


def test_a_step_after_the_end_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"engine.profile: step 1,001 is after the end .* 1,000 steps"):
        StepProfiler(Profile(start=1000, steps=2), tmp_path / "t.json.gz", 1000, cuda=False)
    StepProfiler(Profile(start=1000, steps=1), tmp_path / "t.json.gz", 1000, cuda=False)
    with pytest.raises(UserError, match="step 1,001 is after the end"):  # all ranks end, not only the one that records
        StepProfiler(Profile(start=1000, steps=2), tmp_path / "t.json.gz", 1000, cuda=False, records=False)


def test_one_rank_records(tmp_path: Path) -> None:
    profiler = StepProfiler(Profile(start=1, steps=1), tmp_path / "trace.json.gz", 3, cuda=False, records=False)
    assert train(profiler, 1, 3) == [] and not list(tmp_path.iterdir())

"""Thinned metrics for charts.

Reference: ``read_metrics``, which reads every record.
"""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.thinned_metrics import read_thinned_metrics


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with a long training, 12 evaluations of it, and a short search."""
    run = RunDir(tmp_path)
    with run.metrics.open("w") as file:
        for step in range(1, 30_001):
            file.write(json.dumps({"stage": "train-supernet", "step": step, "loss": 1 / step}) + "\n")
            if step % 2500 == 0:
                file.write(json.dumps({"stage": "train-supernet", "step": step, "evaluation": True}) + "\n")
            if step % 10_000 == 0:
                file.write(json.dumps({"stage": "search", "step": step}) + "\n")
        file.write('{"step": 1, "stage": "retrain"}\nno json\n[1]\n{"stage": "retr')
    return run


def test_few_records_are_all_kept(run: RunDir) -> None:
    assert read_thinned_metrics(run, 100_000) == read_metrics(run)
    assert read_thinned_metrics(RunDir(run.path / "none")) == []


def test_many_records_are_thinned_evenly(run: RunDir) -> None:
    rows, every = read_thinned_metrics(run, 100), read_metrics(run)
    training = [row["step"] for row in rows if row["stage"] == "train-supernet" and "evaluation" not in row]
    assert training == [*range(1, 30_001, 256), 30_000]
    rest = [row for row in every if row["stage"] != "train-supernet" or "evaluation" in row]
    assert [row for row in rows if row in rest] == rest and len(rest) == 16


def test_memory(run: RunDir) -> None:
    tracemalloc.start()
    read_thinned_metrics(run, 100)
    assert tracemalloc.get_traced_memory()[1] < 300_000  # bytes; all rows take 10 MB
    tracemalloc.stop()

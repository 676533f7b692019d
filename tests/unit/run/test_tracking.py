"""Progress lines, metrics.jsonl and resuming.

References: an uninterrupted run, and lines and rates by hand.
"""

import errno
import json
import time

import pytest
import torch

from tests.helpers.tracked import make
from vitas_ds.errors import UserError
from vitas_ds.run import lock, tracking
from vitas_ds.run.files import read_json
from vitas_ds.run.metrics import clock, cut_metrics, progress_line, read_metrics
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import open_tracker


def test_metrics_and_console(tmp_path, capsys):
    config, run = make(tmp_path)
    with open_tracker(config, run, "retrain", True, total=3, every=0) as tracker:
        for step in (1, 2, 3):
            with tracker.waiting():
                pass
            tracker.log(step, {"loss": torch.tensor(0.5 / step), "lr": 1e-3}, images=64)
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[1]["stage"] == "retrain" and rows[1]["loss"] == 0.25 and rows[1]["lr"] == 1e-3
    assert rows[1]["images_per_s"] > 0 and 0 <= rows[1]["data_wait"] <= 1 and rows[1]["memory_gb"] > 0.01
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[1].startswith("retrain  2/3  loss 0.2500  lr 1.00e-03") and "ETA" in lines[1]
    assert sorted(p.name for p in run.path.iterdir()) == ["life", "metrics.jsonl"]


def test_the_time_of_the_later_stages(tmp_path, capsys):
    """20 of 48 steps took 0.2 s: the next 20 take as long, and the later stages three times the 48 steps."""
    config, run = make(tmp_path)
    with open_tracker(config, run, "retrain", True, total=48, start_step=8, every=0, later=3) as tracker:
        time.sleep(0.2)
        before = tracker.start
        tracker.log(27, {})  # too early: the first steps are slow
        tracker.log(28, {})
        took = tracker.last - before
    early, line = capsys.readouterr().out.splitlines()
    assert "all stages" not in early
    assert line.endswith(f"all stages about {clock(took + took / 20 * 48 * 3)}")


def test_the_estimate_is_on_disk(tmp_path):
    """For the command ``status``; not more often than every ten seconds."""
    config, run = make(tmp_path)
    with open_tracker(config, run, "search", True, total=40, every=1e9, later=0.5) as tracker:
        tracker.progress(0, {}, 30.0)
        assert read_json(run.total, {}) | {"time": 0} == {
            "stage": "search", "total": 40, "time": 0, "left": None, "run_left": None,
        }  # fmt: skip
        tracker.start -= 70  # the search takes 100 s, the later stages half as long
        tracker.estimated -= 11
        tracker.progress(0, {}, 30.0)
        tracker.progress(0, {}, 20.0)
    found = read_json(run.total, {})
    assert (found["left"], found["run_left"]) == (30, pytest.approx(30 + 50, abs=1))
    assert 0 <= time.time() - found["time"] < 10


def test_console_is_throttled_but_prints_the_last_step(tmp_path, capsys):
    config, run = make(tmp_path)
    with open_tracker(config, run, "retrain", True, total=50, every=60) as tracker:
        for step in range(1, 51):
            tracker.log(step, {"loss": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["1/50", "50/50"]
    assert len(read_metrics(run)) == 50


def test_records_are_on_disk_at_once(tmp_path):
    config, run = make(tmp_path)
    tracker = open_tracker(config, run, "search", True)
    tracker.log(1, {"best": 0.5})
    assert read_metrics(run)[0]["best"] == 0.5
    tracker.close()


def test_a_suspended_writer_adds_no_lines_once_another_job_has_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "CHECK", 0.2)
    config, run = make(tmp_path)
    run.path.mkdir()
    lock.acquire(run.path, "search")
    try:
        tracker = open_tracker(config, run, "search", True)
        tracker.log(1, {})
        (run.path / "writer-2.json").write_text("{}")  # of another machine
        time.sleep(0.3)
        for write in (tracker.log, tracker.evaluation):
            with pytest.raises(UserError, match="another job has taken over"):
                write(2, {})
        tracker.close()
    finally:
        lock.release()
    assert [row["step"] for row in read_metrics(run)] == [1]


def test_a_full_disk_is_that_of_the_metrics(tmp_path):
    config, run = make(tmp_path)
    with open_tracker(config, run, "retrain", True) as tracker:
        tracker.file.close()
        with open("/dev/full", "wb", buffering=0) as tracker.file, pytest.raises(OSError) as error:
            tracker.log(1, {})
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(run.metrics)


def test_data_wait_is_measured(tmp_path):
    import time

    config, run = make(tmp_path)
    with open_tracker(config, run, "retrain", True) as tracker:
        start = time.perf_counter()
        with tracker.waiting():
            inner = time.perf_counter()
            time.sleep(0.15)
            inner = time.perf_counter() - inner
        outer = time.perf_counter() - start
        time.sleep(0.05)
        tracker.log(1, {}, images=10)
        tracker.log(2, {}, images=10)
    first, second = read_metrics(run)
    waited = first["data_wait"] * first["step_seconds"]
    assert inner - 0.01 <= waited <= outer + 0.01 and first["data_wait"] < 1 and second["data_wait"] == 0.0
    assert first["images_per_s"] == pytest.approx(10 / first["step_seconds"])


def test_resuming_records_every_step_once(tmp_path):
    config, run = make(tmp_path)
    for stage, start, steps in (
        ("train-supernet", 0, range(1, 9)),
        ("search", 0, range(1, 4)),
        ("train-supernet", 5, range(6, 11)),
    ):
        with open_tracker(config, run, stage, True, start_step=start) as tracker:
            for step in steps:
                tracker.log(step, {"start": start})
    rows = read_metrics(run)
    supernet = [(row["step"], row["start"]) for row in rows if row["stage"] == "train-supernet"]
    assert supernet == [(s, 0) for s in range(1, 6)] + [(s, 5) for s in range(6, 11)]
    assert [row["step"] for row in rows if row["stage"] == "search"] == [1, 2, 3]


def test_incomplete_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"stage": "a", "step": step}) + "\n" for step in (1, 2, 3)]
    path.write_text("".join(good) + '{"stage": "a", "st')
    cut_metrics(path, "a", 2)
    assert path.read_text() == "".join(good[:2])
    path.write_text("".join(good))
    before = path.stat().st_ino
    cut_metrics(path, "b", 0)
    assert path.read_text() == "".join(good) and path.stat().st_ino == before  # not rewritten


def test_metrics_do_not_follow_a_link(tmp_path):
    config, run = make(tmp_path)
    run.path.mkdir()
    (tmp_path / "outside").write_text('{"stage": "search", "step": 1}\n')
    run.metrics.symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=r"metrics\.jsonl: a symbolic link"):
        open_tracker(config, run, "retrain", True, total=1)


def test_other_ranks_write_nothing(tmp_path, capsys):
    config, run = make(tmp_path, "offline")
    with open_tracker(config, run, "retrain", False, total=1) as tracker:
        tracker.log(1, {"loss": 1.0}, images=1)
        tracker.table("t", ["a"], [[1]])
        with tracker.waiting():
            pass
    assert type(tracker) is Tracker
    assert not run.path.exists() and capsys.readouterr().out == ""


def test_non_finite_loss_is_recorded_as_null(tmp_path):
    config, run = make(tmp_path)
    with open_tracker(config, run, "retrain", True, total=1) as tracker:
        tracker.log(1, {"loss": float("nan")})
    assert read_metrics(run)[0]["loss"] is None


def test_progress_line_and_clock():
    values = {"accuracy": 0.5, "memory_gb": 1.5, "loss": 2.0, "images_per_s": 1234.5, "data_wait": 0.021, "lr": 1e-3}
    line = progress_line("search", 7, 400, values, 125)
    assert line == (
        "search    7/400  loss 2.0000  lr 1.00e-03  1,234 images/s  data wait 2%  1.50 GB  accuracy 0.5  ETA 2:05"
    )
    assert [clock(s) for s in (0, 9, 125, 3725, 90_000)] == ["0:00", "0:09", "2:05", "1:02:05", "1d 01:00"]

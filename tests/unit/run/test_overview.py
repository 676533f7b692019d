"""The state of a run, from its files.

Reference: files written by hand, and a live process.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from vitas_ds.config import Config
from vitas_ds.distributed.supervisor import process_start
from vitas_ds.errors import UserError
from vitas_ds.run import lock
from vitas_ds.run.files import read_json, write_json
from vitas_ds.run.overview import format_size, last_record, overview
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.run.start import open_run
from vitas_ds.run.summary import update_summary
from vitas_ds.run.tracking import open_tracker


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run stopped after step 20 of 100."""
    tracking = {"wandb": "disabled"}
    config = Config.model_validate({"run": {"name": "a", "dir": str(tmp_path)}, "tracking": tracking})
    run = open_run(config, True, stage="train-supernet", world_size=2)
    with open_tracker(config, run, "train-supernet", True, total=100, every=1e9, later=3.0) as tracker:
        for step in (10, 20):
            tracker.log(step, {"loss": 2.0 / step})
        tracker.evaluation(20, {"top1": 0.5})
    return run


def beat(run: RunDir, **changes: object) -> Path:
    """Write the heartbeat of this process."""
    state = {"rank": 0, "host": platform.node(), "space": os.readlink("/proc/self/ns/pid"), "pid": os.getpid()}
    state["started"] = process_start(os.getpid())
    write_json(run.life / "rank-00000.json", state | {"ended": None} | changes)
    return run.life / "rank-00000.json"


def test_stopped_running_failed_done(run: RunDir) -> None:
    found = overview(run)
    assert (found.stage, found.progress, found.state, found.left) == ("train-supernet", "20/100", "stopped", None)
    assert last_record(run, "train-supernet", evaluation=True)["top1"] == 0.5
    beat(run)
    running = overview(run)
    assert (running.state, running.left, running.run_left) == ("running", None, None)  # too early for an estimate
    total = read_json(run.total, {})
    write_json(run.total, total | {"time": time.time() - 5, "left": 65.0, "run_left": 305.0})
    assert (overview(run).left, overview(run).run_left) == (pytest.approx(60, abs=1), pytest.approx(300, abs=1))
    write_json(run.total, total | {"time": time.time() - 99, "left": 65.0, "run_left": "x"})
    assert (overview(run).left, overview(run).run_left) == (0, None)
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    beat(run, pid=child.pid)
    assert overview(run).state == "stopped"  # killed: no process has this id
    for changes in ({"started": 1}, {"started": 0}, {"pid": 1}, {"pid": "1"}):
        beat(run, **changes)
        assert overview(run).state == "stopped"  # the id is that of another process now
    beat(run, ended="out of memory")
    assert (overview(run).state, overview(run).reason) == ("failed", "out of memory")
    write_json(run.life / "rank-00000.json", {"stage": "search", "total": 3})  # not a heartbeat
    assert overview(run).state == "stopped"
    (run.life / "rank-00000.json").unlink()
    os.mkfifo(run.life / "rank-00000.json")  # to open it would wait
    assert overview(run).state == "stopped"
    (run.life / "rank-00000.json").unlink()
    beat(run, ended="")
    update_summary(run, "train-supernet", {"steps": 20})
    assert overview(run).state == "stopped"  # an earlier training ended; this one has 100 steps
    write_json(run.total, {"stage": "train-supernet", "total": 20})
    assert (overview(run).state, overview(run).progress) == ("done", "100%")


def test_another_machine_counts_as_running_while_it_beats(run: RunDir) -> None:
    path = beat(run, host="elsewhere")
    assert overview(run).state == "running"
    os.utime(path, (time.time() - 61,) * 2)
    assert overview(run).state == "stopped"


def test_a_stage_without_heartbeats_is_running(run: RunDir) -> None:
    """``export`` has none; those of the stage before it do not count."""
    beat(run, ended="a damaged image")
    code = "import sys, time; from vitas_ds.run import lock; from pathlib import Path; "
    code += "lock.acquire(Path(sys.argv[1]), 'export'); print(flush=True); time.sleep(60)"
    lock.release()
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE) as job:
        assert job.stdout is not None and job.stdout.readline()
        assert overview(run).state == "running"
        job.kill()
    assert overview(run).state == "failed"
    config = read_config(run)
    open_run(config, True, stage="export")
    update_summary(run, "export", {})
    assert overview(run).state == "done"


def test_a_stage_with_fewer_steps_than_planned_is_done(run: RunDir) -> None:
    """A search ends when all networks of a small budget are scored."""
    with open_tracker(read_config(run), run, "train-supernet", True, total=100, start_step=20) as tracker:
        tracker.log(37, {"loss": 1.0})
        update_summary(run, "train-supernet", {})
        assert overview(run).state == "stopped"
        tracker.complete()
    assert (overview(run).state, overview(run).progress) == ("done", "100%")


def test_results_and_size(run: RunDir) -> None:
    update_summary(run, "search", {"best": {"score": 0.25}})
    update_summary(run, "evaluate", {"top1": 0.75, "top5": 1.0, "images": 4})
    (run.path / "large").write_bytes(bytes(1_000_000))
    found = overview(run)
    assert (found.best, found.top1) == (0.25, 0.75)
    assert found.size == sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    assert [format_size(n) for n in (0, 999, 1000, 2.5e9, 1e13)] == ["0 B", "999 B", "1 kB", "2.5 GB", "10 TB"]
    assert [format_size(n) for n in (999_400_000, 999_700_000)] == ["999 MB", "1 GB"]


def test_only_the_end_of_the_metrics_is_read(run: RunDir) -> None:
    row = {"stage": "train-supernet", "loss": 1.5, "step_seconds": 0.1}
    with run.metrics.open("a") as file:
        file.writelines(json.dumps(row | {"step": step}) + "\n" for step in range(21, 200_001))
        file.write('{"stage": "train-su')  # a killed writer
    tracemalloc.start()
    assert last_record(run, "train-supernet")["step"] == 200_000
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        overview(RunDir(tmp_path))

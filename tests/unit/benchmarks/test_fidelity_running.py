"""Records, user errors and interruptions of tests/benchmarks/fidelity.

References: records and folders written by hand, and the process table.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.fidelity import __main__ as command
from tests.benchmarks.fidelity import jobs, lock
from tests.benchmarks.fidelity.record import KEYS, Record
from vitas_ds.errors import UserError


def row_of(job: str, **more) -> dict:
    return dict.fromkeys(KEYS, "") | {"job": job, "kind": "net", "git": "abc"} | more


def test_an_incomplete_line_of_the_record_is_removed(tmp_path):
    record = Record(tmp_path / "record.jsonl")
    record.add(row_of("a"))
    with record.path.open("a") as file:
        file.write('{"job": "b", "ki')
    again = Record(record.path)
    assert list(again.rows) == ["a"]
    again.add(row_of("c"))
    assert list(Record(record.path).rows) == ["a", "c"]


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"job": "b"}'])
def test_an_invalid_line_of_the_record_is_an_error(tmp_path, line):
    record = Record(tmp_path / "record.jsonl")
    record.add(row_of("a"))
    record.path.write_text(record.path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"record\.jsonl:2: "):
        Record(record.path)


def test_a_line_of_progress_has_the_numbers_of_a_row():
    assert command.headline({"accuracy": 0.5, "steps": 1234, "seconds": 3.5}) == "accuracy 0.5, steps 1234, 3.5 s"
    assert command.headline({"steps": [10, 20], "scores": {}, "seconds": 3.5}) == "3.5 s"


def test_only_jobs_that_are_named_run():
    all_jobs = [jobs.Job(name, "net", None, 0, 1) for name in ("a, seed 0", "a, seed 1", "b, seed 0")]
    assert [job.name for job in jobs.named(all_jobs, ["a", "b, seed 1"])] == ["a, seed 0", "a, seed 1"]
    assert jobs.named(all_jobs, []) == all_jobs


def test_a_folder_is_locked_by_one_start(tmp_path):
    with lock.alone(tmp_path / "x"), pytest.raises(UserError, match="another start"), lock.alone(tmp_path / "x"):
        pass
    with lock.alone(tmp_path / "x"):
        pass


def test_a_user_error_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "record.jsonl").write_text("{}\n")
    missing = [f"data.train={tmp_path}/no", f"data.val={tmp_path}/no", "--out", str(tmp_path / "new")]
    for args, message in (
        (["cifar10", "truth", "--workers", "0"], "--workers 0"),
        (["nothing", "truth"], "nothing: no such recipe"),
        (["cifar10", "truth", "retrain.epoch=3"], "retrain.epoch: unknown key"),
        (["cifar10", "truth", *missing], "no: no such folder of images"),
        (["cifar10", "truth", "--out", str(tmp_path / "file" / "below")], "file/below"),
        (["cifar10", "truth", "--out", str(tmp_path / "out")], "record.jsonl:1"),
    ):
        monkeypatch.setattr("sys.argv", ["fidelity", "--small", *args])
        with pytest.raises(SystemExit) as end:
            command.main()
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and message in error, (args, error)


POOL = """
import os, time
from tests.benchmarks.fidelity.pool import pool
pool = pool(2)
for future in [pool.submit(os.getpid) for _ in range(8)]: future.result()
print(*pool._processes, flush=True)
pool.submit(time.sleep, 600)
time.sleep(600)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_study(number):
    study_ = subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in study_.stdout.readline().split()]
    assert len(workers) == 2 and all(map(running, workers))
    study_.send_signal(number)
    study_.wait()
    until = time.monotonic() + 60
    while any(map(running, workers)):
        assert time.monotonic() < until
        time.sleep(0.1)

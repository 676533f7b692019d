"""One job writes to a run at a time.

Reference: other processes that take the lock, and files as other machines write them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from vitas_ds.errors import UserError
from vitas_ds.run import lock
from vitas_ds.run.files import append_line, write_json

HOLD = """
import sys, time
from pathlib import Path
from vitas_ds.errors import UserError
from vitas_ds.run import lock
try:
    lock.acquire(Path(sys.argv[1]), "search")
except UserError as error:
    print(error, flush=True)
    sys.exit(2)
print("mine", flush=True)
sys.stdin.readline()
lock.release()
"""


def start(run: Path) -> subprocess.Popen[str]:
    """Start a process that takes the lock until it reads a line."""
    line = [sys.executable, "-c", HOLD, str(run)]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def first_line(job: subprocess.Popen[str]) -> str:
    assert job.stdout is not None
    return job.stdout.readline().strip()


def files(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("writer-*"))


def elsewhere(run: Path, **changes: object) -> Path:
    """Make the last writer one of another machine."""
    path = run / files(run)[-1]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "n7", "ended": False} | changes))
    return path


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, seconds in (("BEAT", 0.1), ("SILENT", 1.5), ("UNREADABLE", 0.3), ("POLL", 0.05)):
        monkeypatch.setattr(lock, name, seconds)
    yield
    lock.release()


def test_the_second_job_names_the_first_which_may_be_killed(tmp_path: Path) -> None:
    with start(tmp_path) as first:
        assert first_line(first) == "mine"
        with start(tmp_path) as second:
            text = first_line(second)
        assert second.returncode == 2
        assert f"{tmp_path}: in use by process {first.pid} on {os.uname().nodename} (search, since 20" in text
        first.kill()
        first.wait()
    with start(tmp_path) as third:  # at once
        assert first_line(third) == "mine" and files(tmp_path) == ["writer-2.json"]
        third.communicate("\n")
    lock.acquire(tmp_path, "evaluate")
    assert files(tmp_path) == ["writer-3.json"]


def test_only_one_of_many_gets_a_lock(tmp_path: Path) -> None:
    lock.acquire(tmp_path, "search")
    lock.release()
    jobs = [start(tmp_path) for _ in range(6)]
    with ThreadPoolExecutor() as pool:
        lines = list(pool.map(first_line, jobs))
    assert sorted(line == "mine" for line in lines) == [False] * 5 + [True]
    winner = jobs[lines.index("mine")]
    assert all(f"process {winner.pid} on" in line for line in lines if line != "mine")
    for job in jobs:
        job.communicate("\n")


def test_a_job_of_another_machine_is_dead_when_it_is_silent(tmp_path: Path) -> None:
    lock.acquire(tmp_path, "search")
    lock.release()
    path, done = elsewhere(tmp_path), threading.Event()

    def beat() -> None:
        while not done.wait(0.1):
            os.utime(path, (time.time() - 7200,) * 2)  # its clock is wrong

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(UserError, match=r"in use by process .* on n7"):
        lock.acquire(tmp_path, "search")
    done.set()
    thread.join()
    start = time.monotonic()
    lock.acquire(tmp_path, "search")
    assert time.monotonic() - start >= 1.5 and files(tmp_path) == ["writer-2.json"]


def test_the_number_of_a_process_may_be_used_again(tmp_path: Path) -> None:
    with start(tmp_path) as first:
        assert first_line(first) == "mine"
        path = tmp_path / "writer-1.json"
        written = json.loads(path.read_text())
        path.write_text(json.dumps(written | {"started": written["started"] - 1}))
        lock.acquire(tmp_path, "search")
        first.kill()


def test_a_copied_run_is_not_locked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with start(tmp_path / "a") as first:
        assert first_line(first) == "mine"
        (tmp_path / "b" / "writer-1.json").write_bytes((tmp_path / "a" / "writer-1.json").read_bytes())
        lock.acquire(tmp_path / "b", "search")
        first.kill()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": 1}', b"\xff", b"x" * 9999, None])
def test_a_damaged_file_delays_a_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "writer-3.json"
    path.mkdir() if content is None else path.write_bytes(content)
    lock.acquire(tmp_path, "search")
    assert "writer-4.json" in files(tmp_path)


def test_a_job_that_lost_its_run_writes_nothing(tmp_path: Path) -> None:
    lock.acquire(tmp_path, "search")
    write_json(tmp_path / "summary.json", {"a": 1})
    append_line(tmp_path / "search" / "ledger.jsonl", "{}")
    (tmp_path / "writer-2.json").write_text("{}")  # of another machine
    for write in (
        lambda: write_json(tmp_path / "summary.json", {"a": 2}),
        lambda: append_line(tmp_path / "search" / "ledger.jsonl", "{}"),
    ):
        with pytest.raises(UserError, match="another job has taken over"):
            write()
    assert json.loads((tmp_path / "summary.json").read_text()) == {"a": 1}
    assert (tmp_path / "search" / "ledger.jsonl").read_text() == "{}\n"
    write_json(tmp_path.parent / "other.json", {})  # of no run


def test_the_next_run_releases_the_last(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lock.acquire(tmp_path / name, "retrain")
        lock.acquire(tmp_path / name, "retrain")  # of a stage that starts again
    with start(tmp_path / "a") as other:
        assert first_line(other) == "mine"
        assert lock.is_free(tmp_path / "b") and not lock.is_free(tmp_path / "a")
        other.communicate("\n")
    assert lock.is_free(tmp_path / "a") and lock.is_free(tmp_path)

"""The parent process of a rank: statuses, stop requests, a launcher that dies. The ranks are small scripts.

Reference: the signals sent by the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from vitas_ds.distributed.supervisor import parent_of
from vitas_ds.distributed.torchrun import worst

RANK = """
import os, sys, time
from pathlib import Path
from vitas_ds.distributed import preemption, supervisor
supervisor.supervise("retrain")
folder = Path(sys.argv[1])
def ready():
    (folder / ".pid").write_text(str(os.getpid()))
    (folder / ".pid").rename(folder / "pid")
def loop(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not preemption.requested():
        time.sleep(0.01)
"""
SAVES = (
    "with preemption.catch_signals():\n    ready(); loop(60); time.sleep(0.2); (folder / 'saved').touch()\nos._exit(75)"
)
SLOW = "with preemption.catch_signals():\n    ready(); loop(60); time.sleep(60)"
BUSY = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, supervisor.SIGNALS)\nready(); time.sleep(60)"
JOB = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "CROSS_RANK": "0", "MASTER_ADDR": "localhost",
       "MASTER_PORT": "29"}  # fmt: skip


def start(folder: Path, code: str, *launcher: str) -> tuple[subprocess.Popen[str], int]:
    """Start a supervised rank, wait until it is ready, and return its supervisor and process id."""
    env = os.environ | JOB | {"PYTHONPATH": str(ROOT)}
    args = [*launcher, sys.executable, "-c", RANK + code, str(folder)]
    job = subprocess.Popen(args, env=env, text=True, stderr=subprocess.PIPE, start_new_session=True)
    limit = time.monotonic() + 30
    while not (folder / "pid").exists():
        assert time.monotonic() < limit and job.poll() is None
        time.sleep(0.02)
    return job, int((folder / "pid").read_text())


def end(job: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    """Return the status and the error lines of a supervisor that ends within ``seconds``."""
    try:
        _, text = job.communicate(timeout=seconds)
        return job.returncode, text
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Return whether a process runs. An ended one stays as a zombie if nobody waits for it (without an init)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("status", [0, 1, 2, 74])
def test_statuses_are_passed_on(tmp_path: Path, status: int) -> None:
    job, _ = start(tmp_path, f"ready(); time.sleep(0.2); os._exit({status})")
    assert end(job, 20) == (status, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_rank_is_a_lost_rank(tmp_path: Path, number: signal.Signals) -> None:
    job, pid = start(tmp_path, "ready(); time.sleep(60)")
    os.kill(pid, number)
    status, text = end(job, 20)
    assert status == 69 and text.count("\n") == 1
    assert text.startswith("vitas retrain: rank 1 (host ") and f"died without an error message ({number.name}" in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
@pytest.mark.parametrize("direct", [True, False], ids=["rank", "supervisor"])
def test_a_stop_request_saves(tmp_path: Path, number: signal.Signals, direct: bool) -> None:
    job, pid = start(tmp_path, SAVES)
    os.kill(pid if direct else job.pid, number)
    assert end(job, 20) == (75, "")
    assert (tmp_path / "saved").exists()


def test_ctrl_c_and_the_signal_of_the_launcher_are_one_request(tmp_path: Path) -> None:
    job, _ = start(tmp_path, SAVES)
    os.killpg(job.pid, signal.SIGINT)
    os.kill(job.pid, signal.SIGTERM)
    assert end(job, 20)[0] == 75 and (tmp_path / "saved").exists()


@pytest.mark.parametrize("direct", [True, False], ids=["rank", "supervisor"])
def test_a_second_request_ends_the_rank_at_once(tmp_path: Path, direct: bool) -> None:
    job, pid = start(tmp_path, SLOW)
    os.kill(pid if direct else job.pid, signal.SIGTERM)
    time.sleep(2)
    os.kill(pid if direct else job.pid, signal.SIGTERM)
    status, text = end(job, 3)
    assert status == 75 and "stopped by a second signal, without saving" in text and text.count("\n") == 1


def test_a_rank_that_cannot_save_yet_ends_soon(tmp_path: Path) -> None:
    job, _ = start(tmp_path, BUSY)
    job.terminate()
    assert end(job, 10) == (75, "")


def test_a_rank_saves_when_its_launcher_dies(tmp_path: Path) -> None:
    launcher = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    job, pid = start(tmp_path, SAVES, sys.executable, "-c", launcher)
    supervisor = parent_of(pid)
    assert parent_of(supervisor) == job.pid
    job.kill()
    limit = time.monotonic() + 20
    while is_running(pid) or is_running(supervisor):
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert (tmp_path / "saved").exists()
    job.communicate()


def test_a_rank_ends_with_its_supervisor(tmp_path: Path) -> None:
    job, pid = start(tmp_path, SAVES)
    job.kill()
    limit = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < limit
        time.sleep(0.05)
    job.communicate()


def test_status_of_several_ranks() -> None:
    assert worst([75, 69, 2]) == 2 and worst([75, -9]) == 69 and worst([0, 75]) == 75 and worst([69, 1]) == 1

"""Worker processes: a lost one is an error at once, and an error ends all of them."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from vitas_ds.distributed import workers


def pid_later(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_a_killed_worker_breaks_the_pool() -> None:
    with workers.pool(2) as pool, pytest.raises(BrokenProcessPool):
        found = pool.submit(pid_later, 0).result(timeout=60)
        waiting = pool.submit(pid_later, 60)
        os.kill(found, signal.SIGKILL)
        waiting.result(timeout=30)


def test_an_error_ends_the_workers() -> None:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), workers.pool(1) as pool:
        pid = pool.submit(pid_later, 0).result(timeout=60)
        pool.submit(pid_later, 600)
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 60 and not Path(f"/proc/{pid}").exists()

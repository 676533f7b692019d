"""Worker processes of a tool. They end with the process that started them, even if it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

WATCH = 0.5  # seconds between checks of the parent
GRACE = 2.0  # seconds for this process to notice a signal before its workers end


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes on demand. They leave stop requests to this process; an error in the block kills them."""
    others = set(multiprocessing.active_children())
    # spawn: a forked child would inherit the locks of this process's threads
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (os.getpid(),))
    try:
        yield executor
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _start(parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all processes
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)  # Slurm does, too; and the pool ends its workers with it if one died
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_later(*_: object) -> None:
    time.sleep(GRACE)
    os._exit(1)


def _end_with(parent: int) -> None:
    """Poll: a worker that waits for a task does not notice the end of its parent."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)

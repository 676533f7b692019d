"""Stop requests: signals of Slurm, launchers and users, handled where a stage can save.

with preemption.catch_signals():
    while ...:
        if preemption.requested():  # on this rank; the ranks must agree before they stop

Importing this module does not import torch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vitas_ds.distributed import console, supervisor
from vitas_ds.errors import Preempted

_requested = threading.Event()
_time = 0.0  # of the first request


def requested() -> bool:
    """Return whether this rank received a stop request inside ``catch_signals``."""
    return _requested.is_set()


@contextmanager
def catch_signals() -> Iterator[None]:
    """Record stop requests instead of stopping. A second one ends the process at once.

    Signals within ``supervisor.ECHO`` seconds are one request: after Ctrl-C, a launcher sends SIGTERM as well.
    """

    def handle(number: int, _: object) -> None:
        global _time
        if not _requested.is_set():
            _time = time.monotonic()
            _requested.set()
        elif time.monotonic() - _time > supervisor.ECHO:
            # a supervisor prints the line, because it also ends ranks that cannot run this code
            line = "stopped by a second signal, without saving; start it again to resume"
            _leave("" if supervisor.active() else line)

    _requested.clear()  # an earlier stage of this process may have received one
    with _handlers(handle):
        supervisor.report(supervisor.SAVES)
        try:
            yield
        finally:
            supervisor.report(supervisor.BUSY)


@contextmanager
def leave_on_signals() -> Iterator[None]:
    """End the process on a stop request: before a stage has computed anything, and after it has saved everything."""
    with _handlers(lambda *_: _leave("stopped; start it again to resume")):
        yield


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise ``Preempted`` on a stop request: for a command of one process, which resumes from its files."""

    def stop(*_: object) -> None:
        raise Preempted("stopped; start it again to resume")

    with _handlers(stop):
        yield


@contextmanager
def _handlers(handle: Callable[[int, object], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handle) for number in supervisor.handled_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(line: str) -> None:
    """End the process. Python code of a library may catch an exception, and its finalizers may wait for other ranks."""
    if line:
        console.print_once(f"vitas: {line}")
    sys.stdout.flush()
    os._exit(supervisor.STOPPED)

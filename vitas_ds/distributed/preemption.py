"""Stop requests: SIGTERM (Slurm preemption, a launcher that shuts down) or Ctrl-C, handled where a stage can save.

with preemption.catch_signals():
    while ...:
        if preemption.requested():  # on this rank; the ranks must agree before they stop
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_requested = threading.Event()


def requested() -> bool:
    """Return whether this rank received a stop request inside ``catch_signals``."""
    return _requested.is_set()


@contextmanager
def catch_signals() -> Iterator[None]:
    """Record SIGTERM and Ctrl-C instead of stopping. A second Ctrl-C interrupts at once."""

    def handle(number: int, _: object) -> None:
        _requested.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    _requested.clear()  # an earlier stage of this process may have received one
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

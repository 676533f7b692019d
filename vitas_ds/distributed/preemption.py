"""Being told to stop: SIGTERM (Slurm's preemption, a launcher's end) or Ctrl-C, taken up where a stage can save.

with stopping.listening():
    while ...:
        if stopping.asked():  # on this rank; the ranks must agree before they act on it
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_asked = threading.Event()


def asked() -> bool:
    """Whether this rank was told to stop since ``listening`` was entered."""
    return _asked.is_set()


@contextmanager
def listening() -> Iterator[None]:
    """SIGTERM and Ctrl-C do no more than to be asked for. A second Ctrl-C leaves at once."""

    def ask(number: int, _: object) -> None:
        _asked.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    _asked.clear()
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Worker processes that end with their parent, even if it is killed."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

WATCH = 0.5  # seconds between checks of the parent


def pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of workers that poll for the end of this process: they get no signal when it is killed."""
    return ProcessPoolExecutor(workers, get_context("spawn"), _end_with, (os.getpid(),))


def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Progress of a tool that processes many files."""

from __future__ import annotations

import sys
import time

LOG_INTERVAL = 30  # seconds between progress lines if stderr is not a terminal


class Progress:
    """Progress on stderr: a bar on a terminal, else a line every ``LOG_INTERVAL`` seconds."""

    def __init__(self, name: str) -> None:
        self.name, self.files, self.last = name, 0, time.monotonic()

    def show(self, done: int, files: int) -> None:
        """Show that ``done`` of ``files`` files are processed."""
        self.files = files
        if sys.stderr.isatty():
            bar = "#" * (30 * done // files)
            print(f"\r{self.name} [{bar:30}] {done} of {files}", end="\n" if done == files else "", file=sys.stderr)
        elif time.monotonic() - self.last > LOG_INTERVAL:
            self.last = time.monotonic()
            print(f"{self.name}: {done} of {files}", file=sys.stderr, flush=True)

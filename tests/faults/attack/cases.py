"""Run one command of the attack in a forked process, and judge how it ended."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ALLOWED = {0, 1, 2, 74, 75}
LONGEST = 320  # characters of a line on stderr


@dataclass
class Outcome:
    """How a command ended: exit status (negative: signal; None: time limit), output, and left processes."""

    status: int | None
    out: str
    err: str
    remaining: bool = False

    def problems(self) -> list[str]:
        """Return the kinds of problems that no command may have."""
        found = {
            "traceback": "Traceback (most recent call last)" in self.err + self.out,
            "hang": self.status is None,
            "status": self.status is not None and self.status >= 0 and self.status not in ALLOWED,
            "long message": any(len(line) > LONGEST for line in self.err.splitlines()),
            "silent failure": self.status == 2 and not self.err.strip(),
            "remaining process": self.remaining,
        }
        return [name for name, is_so in found.items() if is_so]


@dataclass
class Score:
    """Counts of the attack: cases and problems by class, and the failed cases."""

    cases: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str, outcome: Outcome, more: list[str] | None = None) -> None:
        """Count a case; ``more`` are further problems that its class has found."""
        self.cases[kind] += 1
        for problem in [*outcome.problems(), *(more or [])]:
            self.problems[problem] += 1
            tail = outcome.err.strip().splitlines()[-1:] or [""]
            self.failed.append(f"{kind}: {problem}: {what}: status {outcome.status}: {tail[0][:200]}")


def run(argv: list[str], limit: float = 60, file_size: int | None = None,
        during: Callable[[int], None] | None = None) -> Outcome:  # fmt: skip
    """Run ``vitas ARGV`` in a forked process of its own session.

    Args:
        argv: The command line.
        limit: Seconds until it is killed.
        file_size: Largest file that it can write, in bytes, which is how the disk becomes full.
        during: Called with the process id while it runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        pid = os.fork()
        if not pid:
            _child(argv, out, err, file_size)
        if during:
            during(pid)
        status = _wait(pid, limit)
        remaining = _kill_group(pid)
        texts = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
    return Outcome(status, *texts, remaining)


def _child(argv: list[str], out: Path, err: Path, file_size: int | None) -> None:
    status = 70
    try:
        os.setsid()
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        if file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        from vitas_ds.__main__ import main

        status = main(argv)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        import sys

        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _wait(pid: int, limit: float) -> int | None:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _kill_group(pid: int) -> bool:
    """Return whether the process has left others; kill those."""
    time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
        return True
    return False

"""Run a command of the attack in a forked process, disturb it, and judge how it ended."""

from __future__ import annotations

import mmap
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ALLOWED = {0, 1, 2, 74, 75}
LONGEST = 320  # characters of a line on stderr
MEMORY = 8 << 30  # bytes that a command can allocate
GRACE = 3  # seconds that other processes may outlive a command
CHANGES = {  # audit events of Python that change files; all have the path first
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
    "shutil.rmtree",
}  # fmt: skip


@dataclass(frozen=True)
class Blow:
    """A signal to a command: before its n-th change of a file, or after some seconds; or a limit on its files.

    Attributes:
        number: The signal; 0 sends none.
        point: The change of a file below ``watched`` before which the command gets it; the first one is 1.
        delay: Seconds after which it gets it.
        watched: Folder whose changes count.
        file_size: Largest file that the command can write, in bytes.
    """

    number: int = 0
    point: int | None = None
    delay: float | None = None
    watched: str = ""
    file_size: int | None = None


NOTHING = Blow()


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
        status: Exit status; negative for a signal, None at the time limit.
        out: What it printed to stdout.
        err: What it printed to stderr.
        remaining: Whether a process outlived it.
        points: Changes of files below ``Blow.watched``.
    """

    status: int | None
    out: str
    err: str
    remaining: bool = False
    points: int = 0

    def problems(self, allowed: set[int]) -> list[str]:
        """Return the kinds of problems that no command may have."""
        found = {
            "traceback": "Traceback (most recent call last)" in self.err + self.out,
            "hang": self.status is None,
            "status": self.status is not None and self.status not in allowed,
            "long message": any(len(line) > LONGEST for line in self.err.splitlines()),
            "silent failure": self.status in (2, 74) and not self.err.strip(),
            "remaining process": self.remaining,
        }
        return [name for name, is_so in found.items() if is_so]


@dataclass
class Score:
    """Counts of the attack: cases and problems by class, and the failed cases."""

    cases: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str, outcome: Outcome, more: list[str] | None = None,
            allowed: set[int] = ALLOWED) -> None:  # fmt: skip
        """Count a case; ``more`` are further problems that its class has found."""
        self.cases[kind] += 1
        for problem in [*outcome.problems(allowed), *(more or [])]:
            self.problems[problem.partition(":")[0]] += 1
            tail = outcome.err.strip().splitlines()[-1:] or [""]
            self.failed.append(f"{kind}: {problem}: {what}: status {outcome.status}: {tail[0][:300]}")
            print(self.failed[-1], flush=True)

    def table(self) -> str:
        """Return the counts, one class per line."""
        rows = [f"{kind:<18} {count:>6,} cases" for kind, count in sorted(self.cases.items())]
        rows.append(f"{'all':<18} {self.cases.total():>6,} cases, {self.problems.total():,} problems")
        return "\n".join(
            [*rows, *(f"{kind:<18} {count:>6,} problems" for kind, count in sorted(self.problems.items()))]
        )


@dataclass
class Job:
    """A running command: process id, the read ends of its output, its blow, and the counter of its changes."""

    pid: int
    pipes: tuple[int, int]
    blow: Blow
    counter: mmap.mmap
    started: float = field(default_factory=time.monotonic)

    def finish(self, limit: float) -> Outcome:
        """Wait for its end; kill it after ``limit`` seconds."""
        texts, status = dict.fromkeys(self.pipes, b""), None
        handle, struck, killed = os.pidfd_open(self.pid), False, False
        while status is None:
            passed = time.monotonic() - self.started
            if self.blow.delay is not None and not struck and passed >= self.blow.delay:
                struck = True
                os.kill(self.pid, self.blow.number)
            if passed >= limit and not killed:
                killed = True
                os.kill(self.pid, signal.SIGKILL)
            ends = [limit, *([self.blow.delay] if self.blow.delay is not None and not struck else [])]
            for fd in select.select([handle, *texts], [], [], max(0.0, min(ends) - passed))[0]:
                if fd == handle:
                    status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                elif data := os.read(fd, 1 << 16):
                    texts[fd] += data
        remaining = _end_others(self)
        for fd in texts:
            while select.select([fd], [], [], 0)[0] and (data := os.read(fd, 1 << 16)):
                texts[fd] += data
        for fd in (handle, *self.pipes):
            os.close(fd)
        _running.discard(self.pid)
        out, err = (text.decode(errors="replace") for text in texts.values())
        return Outcome(None if killed else status, out, err, remaining, int.from_bytes(self.counter[:8], "little"))


_running: set[int] = set()


def start(argv: list[str], blow: Blow = NOTHING) -> Job:
    """Start ``vitas ARGV`` in a forked process."""
    (out, out_end), (err, err_end), counter = os.pipe(), os.pipe(), mmap.mmap(-1, 8)
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        _child(argv, blow, (out_end, err_end), counter)
    os.close(out_end)
    os.close(err_end)
    _running.add(pid)
    return Job(pid, (out, err), blow, counter)


def run(argv: list[str], limit: float = 60, blow: Blow = NOTHING) -> Outcome:
    """Run ``vitas ARGV`` in a forked process to its end, at most ``limit`` seconds."""
    return start(argv, blow).finish(limit)


def _child(argv: list[str], blow: Blow, ends: tuple[int, int], counter: mmap.mmap) -> NoReturn:
    status = 70
    try:
        os.setsid()
        for number, fd in zip((1, 2), ends, strict=True):
            os.dup2(fd, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        if blow.file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (blow.file_size, blow.file_size))
        if blow.watched:
            _count_changes(blow, counter)
        # New streams: those of the parent may belong to a file, where a position counts.
        sys.stdout, sys.stderr = (os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") for fd in (1, 2))
        from vitas_ds.__main__ import main

        status = main(argv)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for handled in (signal.SIGTERM, signal.SIGINT):  # the command has ended
            signal.signal(handled, signal.SIG_IGN)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _count_changes(blow: Blow, counter: mmap.mmap) -> None:
    """Count changes of files below ``blow.watched``; send the signal before the one that ``blow.point`` numbers."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES and not (event == "open" and isinstance(args[2], int) and args[2] & 0o103):
            return
        if isinstance(args[0], str | bytes | os.PathLike) and os.fsdecode(args[0]).startswith(blow.watched):
            seen = int.from_bytes(counter[:8], "little") + 1
            counter[:8] = seen.to_bytes(8, "little")
            if seen == blow.point:
                os.kill(os.getpid(), blow.number)

    sys.addaudithook(hook)


def adopt_orphans() -> None:
    """Become the parent of processes whose parents have ended, as init is, to see which outlive a command."""
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, linux/prctl.h


def _end_others(job: Job) -> bool:
    """Return whether a command has left processes that do not end by themselves; kill those."""
    end, sent = time.monotonic() + GRACE, False
    while True:
        others = {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()} - _running
        for pid in list(others):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    others.discard(pid)
        if not others:
            return sent
        if time.monotonic() > end:
            sent = True
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)

"""The lock of a run: one job writes to it, on any machine that sees its folder. Works on NFS, without flock.

    runs/NAME/writer-N.json    the job that writes, or wrote last: host, process, times; N counts the jobs

A job may write after it has created the file of the next number, which only one job can do (O_EXCL). First, the job of
the last file must have ended: it says so in the file, or its process on this machine is gone, or it gives no sign of
life for ``SILENT`` seconds. A writer sets the modification time of its file every ``BEAT`` seconds; the next job waits
and looks whether it changes, so clocks need not agree. A writer suspended for longer, while another job took over,
stops at its next write (``check``). A kill at any moment leaves a file whose job has ended.

Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from vitas_ds.distributed import supervisor
from vitas_ds.distributed.supervisor import ORPHAN_LIMIT, pid_namespace, process_start
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import parse_json, read_text

BEAT = 5.0  # seconds; own thread: the watchdog's starts after images, teacher and latencies are ready
SILENT = 60.0  # seconds without a sign of life after which a job of another machine has ended
UNREADABLE = 5.0  # seconds until a file without a valid record counts as damaged: its writer may be creating it
POLL = 0.5  # seconds
SIZE = 2048  # bytes of the file; constant, because it is overwritten in place


@dataclass(frozen=True)
class Writer:
    """A job that writes to a run.

    Attributes:
        stage: Its stage or command.
        host: Name of its machine.
        space: PID namespace; process ids are comparable within a machine and namespace.
        pid: Process id of its rank 0.
        started: Start time of this process in clock ticks since the machine's start: ids are used again.
        parents: Processes of its launcher and their parents, see ``supervisor.parents``.
        folder: Digest of the path of the run folder, to recognize copies of it.
        since: Date and time at which it became the writer.
        ended: Whether it has ended.
    """

    stage: str
    host: str
    space: str
    pid: int
    started: int
    parents: list[list[int]]
    folder: str
    since: str
    ended: bool = False

    def is_here(self, folder: Path) -> bool:
        """Return whether it runs on this machine, and on this folder instead of the original of a copy."""
        return (self.host, self.space, self.folder) == (platform.node(), pid_namespace(), _digest(folder))

    def is_alive(self) -> bool:
        """Return whether its process exists on this machine, as another one than this."""
        return self.pid != os.getpid() and bool(self.started) and process_start(self.pid) == self.started

    def is_leaving(self) -> bool:
        """Return whether its launcher has died: its supervisor ends it soon."""
        return any(supervisor.parent_of(pid) != parent for pid, parent in self.parents)


@dataclass
class Held:
    """The lock that this process holds."""

    folder: Path
    number: int
    handle: int
    writer: Writer
    done: threading.Event

    def beat(self) -> None:
        """Show signs of life until the lock is released."""
        while not self.done.wait(BEAT):
            with suppress(OSError):
                os.utime(self.handle)


_held: Held | None = None


def acquire(folder: Path, stage: str) -> None:
    """Become the writer of a run, as the only one; release the lock of another run.

    Raises:
        UserError: Another job writes to it.
        OSError: The folder is not writable.
    """
    global _held
    folder = folder.absolute()
    if _held is not None and _held.writer.pid == os.getpid() and _held.folder == folder:
        return check(folder)
    release()
    writer = _describe(folder, stage)
    while (taken := _take(folder, writer)) is None:
        pass
    number, handle = taken
    _held = Held(folder, number, handle, writer, threading.Event())
    threading.Thread(target=_held.beat, name="lock", daemon=True).start()
    for other in _numbers(folder):
        if other < number:
            with suppress(OSError):
                _path(folder, other).unlink()


def release() -> None:
    """Record the end of this job, if it holds a lock."""
    global _held
    held, _held = _held, None
    if held is None or held.writer.pid != os.getpid():  # a forked process has the lock of its parent
        return
    held.done.set()
    with suppress(OSError):
        _write(held.handle, replace(held.writer, ended=True))
    os.close(held.handle)


def check(path: Path) -> None:
    """Check that this job still is the writer of the run that contains ``path``, if it was.

    Raises:
        UserError: Another job has taken over, or the folder was moved or removed.
    """
    held = _held
    if held is None or held.writer.pid != os.getpid() or not path.absolute().is_relative_to(held.folder):
        return
    if not _path(held.folder, held.number).exists() or _path(held.folder, held.number + 1).exists():
        raise UserError(
            f"{held.folder}: another job has taken over this run, or the folder was moved: this job (process "
            f"{held.writer.pid} on {held.writer.host}) stops without writing"
        )


def is_free(folder: Path) -> bool:
    """Return whether no other job writes to the run, as far as its files say."""
    last = max(_numbers(folder), default=0)
    own = _held is not None and (_held.folder, _held.number) == (folder.absolute(), last)
    return not last or own or _has_ended(*_look(folder, last), folder)


def is_active(folder: Path) -> bool:
    """Return whether another job writes to the run: it lives on this machine, or has given a sign lately."""
    last = max(_numbers(folder), default=0)
    writer, beat = _look(folder, last) if last else (None, None)
    if writer is None or beat is None or writer.ended:
        return False
    return writer.is_alive() if writer.is_here(folder) else time.time() - beat / 1e9 < SILENT


def _take(folder: Path, writer: Writer) -> tuple[int, int] | None:
    """Create the next file if the last writer has ended. Return number and handle; None if another job was faster."""
    last = max(_numbers(folder), default=0)
    if last:
        _wait_for_end(folder, last)
    path = _path(folder, last + 1)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:  # on NFS, the list of files may be a minute old
        _wait_for_end(folder, last + 1)
        time.sleep(POLL)
        return None
    try:
        _write(handle, writer)
        if max(_numbers(folder), default=0) == last + 1:
            return last + 1, handle
    except OSError:
        path.unlink(missing_ok=True)
        os.close(handle)
        raise
    path.unlink(missing_ok=True)  # its number was in use before, by a job replaced since
    os.close(handle)
    return None


def _wait_for_end(folder: Path, number: int) -> None:
    """Return once the last writer has ended, or has been silent for long enough.

    Raises:
        UserError: It is alive.
    """
    start, said = time.monotonic(), False
    writer, first = _look(folder, number)
    beat = first
    while not _has_ended(writer, beat, folder):
        waited, here = time.monotonic() - start, writer is not None and writer.is_here(folder)
        limit = UNREADABLE if writer is None else SILENT
        if here and writer is not None:
            limit = ORPHAN_LIMIT + BEAT if writer.is_leaving() else 0
        if writer is not None and (waited >= limit if here else beat != first):
            raise UserError(
                f"{folder}: in use by process {writer.pid} on {writer.host} ({writer.stage}, since {writer.since}); "
                "wait for its end, or stop it; or set another run.name"
            )
        if waited >= limit:
            return
        if writer is not None and not said:
            print(f"{folder}: process {writer.pid} on {writer.host} wrote to it; waiting for its end, at most "
                  f"{limit:.0f} s", flush=True)  # fmt: skip
            said = True
        time.sleep(POLL)
        writer, beat = _look(folder, number)


def _has_ended(writer: Writer | None, beat: int | None, folder: Path) -> bool:
    if beat is None:  # another job has replaced it
        return True
    return writer is not None and (writer.ended or (writer.is_here(folder) and not writer.is_alive()))


def _look(folder: Path, number: int) -> tuple[Writer | None, int | None]:
    """Return the content of a file, None if it is not that of a writer; and its modification time, None without it."""
    path = _path(folder, number)
    try:
        text, beat = read_text(path, 2 * SIZE), path.lstat().st_mtime_ns
    except FileNotFoundError:
        return None, None
    except UserError:
        return None, 0
    try:
        found = Writer(**parse_json(text, str(path)))
        found = replace(found, parents=[[int(pid), int(parent)] for pid, parent in found.parents])
    except (UserError, TypeError, ValueError):
        return None, 0
    kinds = {"host": str, "pid": int, "started": int, "ended": bool, "folder": str}
    return (found, beat) if all(type(getattr(found, name)) is kind for name, kind in kinds.items()) else (None, 0)


def _describe(folder: Path, stage: str) -> Writer:
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    parents = [list(pair) for pair in supervisor.parents()]
    pid = os.getpid()
    return Writer(stage, platform.node(), pid_namespace(), pid, process_start(pid), parents, _digest(folder), now)


def _digest(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]


def _write(handle: int, writer: Writer) -> None:
    os.pwrite(handle, json.dumps(asdict(writer)).encode().ljust(SIZE - 1) + b"\n", 0)


def _numbers(folder: Path) -> list[int]:
    names = [name[len("writer-") : -len(".json")] for name in os.listdir(folder) if name.startswith("writer-")]
    return [int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 10]


def _path(folder: Path, number: int) -> Path:
    return folder / f"writer-{number}.json"

"""A small parent process for each rank of a launcher. It starts before the rank imports any library.

Launchers hand the status of a killed process on in different ways (247, 137, 1), do not end their ranks when they die
themselves, or wait until they are killed. The supervisor waits for the rank and

- exits with its status; with 69 if it was killed, and prints a line if no other rank has;
- passes stop requests on, and ends a rank that cannot handle them because it has not started or has a second request;
- asks the rank to stop when the launcher has died, and kills it if it does not stop in time.

Importing this module does not import torch.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from vitas_ds.distributed import console, launcher
from vitas_ds.errors import RankLost

ECHO = 1.5  # seconds: signals in so short a time are one request
START_LIMIT = 5  # seconds for a rank to end if it cannot save
ORPHAN_LIMIT = 25  # seconds for a rank to save once its launcher has died
OTHERS_LIMIT = 10  # seconds in which other ranks may report that this one died
POLL = 0.25  # seconds
# a launcher or scancel; Ctrl-C; Slurm with --signal=USR1 and Lightning; a terminal that closes
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
STOPPED = 75  # exit status after a stop request
RESUME = "start the stage again to resume"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h

# messages of the rank; a byte below 65 is a received signal
SAVES = b"S"  # it handles stop requests
BUSY = b"B"  # it does not
CLAIM = b"C"  # followed by a path (see console.share_claim) and a zero byte

_link: int | None = None  # the rank's end of the pipe
_parents: list[tuple[int, int]] = []


def report(message: bytes) -> None:
    """Send a message to the supervisor, if there is one."""
    if _link is not None:
        with suppress(OSError):
            os.write(_link, message)


def share_claim(path: Path | None) -> None:
    """Share the file of ``console.share_claim`` with the supervisor too."""
    console.share_claim(path)
    report(CLAIM + (os.fsencode(path) if path else b"") + b"\0")


def handled_signals() -> list[signal.Signals]:
    """Return the signals treated as stop requests: under nohup, all but SIGHUP."""
    return [n for n in SIGNALS if not (n == signal.SIGHUP and signal.getsignal(n) == signal.SIG_IGN)]


def active() -> bool:
    """Return whether this process has a supervisor."""
    return _link is not None


def parents() -> list[tuple[int, int]]:
    """Return this rank's supervisor and the processes of its launcher: (pid, parent) of each; empty without them.

    If one of them gets another parent, the supervisor ends the rank.
    """
    return _parents


def supervise(command: str) -> None:
    """Fork the rank, if a launcher started this process. Returns in the rank; the supervisor exits."""
    global _link, _parents
    if not launcher.started_by() or not hasattr(os, "fork"):
        return
    parents = _launcher_processes()
    os.environ["VITAS_LAUNCHER"] = str(os.getppid())
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _link, _parents = write_end, parents
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)  # works while the rank is inside a collective
        die_with_parent()
        return
    os.close(write_end)
    status = Supervisor(pid, read_end, command, parents).run()
    _record(status)
    sys.stdout.flush()
    os._exit(status)


def _record(status: int) -> None:
    """Append the status to the file that launch/lib.sh reads, because the deepspeed launcher may change it."""
    path = os.environ.get("VITAS_STATUS")
    if path:
        with suppress(OSError), open(path, "a") as file:
            file.write(f"{status}\n")


@dataclass
class Supervisor:
    """Wait for a rank.

    Attributes:
        pid: Process id of the rank.
        pipe: Its messages.
        command: The stage, for the error line.
        parents: Processes of the launcher: (pid, parent) of each.
        saves: Whether the rank handles stop requests.
        asked: Time of the first stop request.
        kill_at: Time at which to kill the rank.
    """

    pid: int
    pipe: int
    command: str
    parents: list[tuple[int, int]] = field(default_factory=list)
    saves: bool = False
    asked: float | None = None
    kill_at: float | None = None
    _text: bytes = b""
    _orphan: bool = False
    _killed: bool = False

    def run(self) -> int:
        """Wait for the rank and return the exit status."""
        for number in handled_signals():
            signal.signal(number, lambda number, _: self._stop(number))
        while True:
            self._listen()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._listen(0)  # its last messages
                return self._status(os.waitstatus_to_exitcode(status))
            self._check_launcher()
            if self.kill_at is not None and time.monotonic() > self.kill_at:
                self._signal(signal.SIGKILL)

    def _listen(self, seconds: float = POLL) -> None:
        """Read the rank's messages; wait up to ``seconds`` for one."""
        if self.pipe < 0:
            time.sleep(seconds)
            return
        while select.select([self.pipe], [], [], seconds)[0]:
            data = os.read(self.pipe, 4096)
            if not data:  # it has ended
                os.close(self.pipe)
                self.pipe = -1
                break
            self._text += data
            seconds = 0
        while self._text:
            head, rest = self._text[:1], self._text[1:]
            if head == CLAIM:
                path, end, rest = rest.partition(b"\0")
                if not end:
                    return
                console.share_claim(Path(os.fsdecode(path)) if path else None)
            elif head in (SAVES, BUSY):
                self.saves = head == SAVES
            elif head[0] in SIGNALS:
                self._request()
            self._text = rest

    def _stop(self, number: int) -> None:
        """Pass a stop request on."""
        self._request()
        self._signal(number)

    def _request(self) -> None:
        """Kill the rank at the second stop request, and soon at the first one if it cannot save."""
        now = time.monotonic()
        if self.asked is None:
            self.asked = now
            if not self.saves:
                self._limit(START_LIMIT)
        elif now - self.asked > ECHO:
            if not self._killed and _first_to_report():
                console.print_line(f"vitas {self.command}: stopped by a second signal, without saving; {RESUME}")
            self._killed = True
            self._limit(0)

    def _check_launcher(self) -> None:
        """Ask the rank to stop if the launcher has died."""
        if self._orphan or all(parent_of(pid) == parent for pid, parent in self.parents):
            return
        self._orphan = True
        self._stop(signal.SIGTERM)
        self._limit(ORPHAN_LIMIT)

    def _limit(self, seconds: float) -> None:
        limit = time.monotonic() + seconds
        self.kill_at = limit if self.kill_at is None else min(limit, self.kill_at)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _status(self, code: int) -> int:
        """Return the exit status for that of the rank; negative for a signal."""
        if code >= 0:
            return code
        if self.asked is not None:  # it could not handle the request, or did not in time
            return STOPPED
        if launcher.read().world_size > 1 and console.shares_claim():
            _wait(console.claimed, OTHERS_LIMIT)  # they know its step
        if _first_to_report():
            rank = f"rank {launcher.read().rank} (host {os.uname().nodename}, process {self.pid})"
            cause = f"{_name(-code)}: killed? out of memory?" if -code == signal.SIGKILL else _name(-code)
            console.print_line(f"vitas {self.command}: {rank} died without an error message ({cause}); {RESUME}")
        return RankLost.STATUS


def _first_to_report() -> bool:
    return not console.shares_claim() or console.claim()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if the process does not exist."""
    return os.getppid() if pid == os.getpid() else state_of(pid)[1]


def state_of(pid: int) -> tuple[str, int]:
    """Return state and parent of a process; an empty text and 0 if it does not exist."""
    fields = _stat(pid)
    return (fields[0], int(fields[1])) if fields else ("", 0)


def process_start(pid: int) -> int:
    """Return the start time of a process in clock ticks since the start of the machine; 0 if it does not run."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else 0


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name of the process; empty if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []


def pid_namespace() -> str:
    """Return the namespace in which process ids are comparable on a machine; empty if it is unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _launcher_processes() -> list[tuple[int, int]]:
    """Return the processes whose parents belong to the launcher: this one, and deepspeed's launch.py.

    deepspeed starts launch.py, which starts the ranks. If deepspeed is killed, launch.py keeps running. On other
    nodes, its parent is the connection of ssh.
    """
    parents = [(os.getpid(), os.getppid())]
    launch = os.getppid()
    if launcher.started_by() == "deepspeed" and "deepspeed.launcher.launch" in _arguments(launch):
        above = parent_of(launch)
        # killed before the ranks started: launch.py belongs to another process now
        reaper = above == 1 or "systemd" in _arguments(above)[0]
        adopted = reaper and os.getpgid(launch) != launch and not _is_deepspeed(above)
        parents.append((launch, -1 if adopted else above))
    return parents


def _is_deepspeed(pid: int) -> bool:
    return any(Path(word).name in ("deepspeed", "ds", "deepspeed.launcher.runner") for word in _arguments(pid)[:4])


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(POLL)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Let Linux kill this process, or send it another signal, when its parent ends."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)

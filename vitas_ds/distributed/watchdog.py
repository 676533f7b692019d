"""Detect ranks that hang or die, end the job, and print one line with the rank and its phase.

Ranks wait for each other, in training many times per step. One rank that hangs (a stalled disk, a stopped process, a
lost node) blocks all; one that dies breaks a connection on another rank. Each rank therefore has a thread that writes
heartbeats to a file in the run folder. Nobody reads these files until a rank makes no progress:

    runs/NAME/life/rank-00000.json ...  last heartbeat: step, phase, and a counter
                   rank-00000.txt ...   traceback of a rank that ends because of another one
                   said                 created by the rank that prints the error line

Usage: ``with Watchdog(...) as watch: watch.at(step, "waiting for data")``. All ranks call ``at`` in the same order; a
rank with less work than others reports the phase ``WAITING``. The function ``at`` also works without a watchdog.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from vitas_ds.distributed import comm, console, launcher, supervisor
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.supervisor import RESUME, pid_namespace, process_start, state_of
from vitas_ds.errors import Preempted, RankLost, UserError
from vitas_ds.errors.reading import check_regular

FILE_SIZE = 4096  # bytes; constant, so a heartbeat overwrites the previous one completely
START_LIMIT = 300  # smallest time limit in seconds before the first step: libraries are loaded and compiled
QUIET = 20  # seconds without progress before a rank checks the others
MISSED_BEATS = 3  # a rank is silent if its counter stays the same for so many beats
WAITING = "waiting for the other ranks"
LEAVE_LIMIT, LEAVE_POLL = 20, 0.2  # seconds for which a stopped rank waits for the others to save


@dataclass(frozen=True)
class Heartbeat:
    """State of a rank.

    Attributes:
        rank: Rank of the process.
        host: Name of its node.
        space: PID namespace. Process ids are comparable if host and namespace are equal.
        pid: Process id.
        started: Start time of this process in clock ticks since the start of the machine: ids are used again.
        parent: Process id of its parent.
        step: Training step, from 1; 0 before the first.
        phase: Activity of the rank, for the error line.
        moves: Number of calls of ``at``.
        beat: Counter, incremented by the watchdog's thread.
        ended: None while the rank runs; why it failed, or "" if it ended without an error of its own.
    """

    rank: int
    host: str
    space: str
    pid: int
    parent: int = 0
    step: int = 0
    phase: str = "starting"
    moves: int = 0
    beat: int = 0
    ended: str | None = None
    started: int = 0

    @property
    def name(self) -> str:
        """Rank, host and process id."""
        return f"rank {self.rank} (host {self.host}, process {self.pid})"

    @property
    def place(self) -> str:
        """Phase and step."""
        return f"{self.phase}, step {self.step}" if self.step else self.phase


def at(phase: str = "") -> None:
    """Report progress to the active watchdog, if any.

    Args:
        phase: The phase that starts now; "" for progress within the current phase.
    """
    if _active is not None:
        _active.at(0, phase or _active.phase)


_active: Watchdog | None = None  # a process runs one stage at a time

Verdict = tuple[str, list[Heartbeat]]  # the error line, and the ranks it blames


class Watchdog:
    """Monitor the ranks of a job as a context manager.

    A rank that failed, died or is silent (process stopped, node lost) ends the job within a minute. A live rank without
    progress ends it after ``timeout``, and before the first step after at least ``START_LIMIT``.

    Args:
        folder: Folder of the heartbeat files; files of an earlier start are removed.
        stage: Name of the stage, for the error line.
        ranks: Position of this process.
        timeout: Seconds without progress after which the job ends (``run.timeout``).
    """

    def __init__(self, folder: Path, stage: str, ranks: Ranks, timeout: float) -> None:
        self.folder, self.stage, self.ranks, self.timeout = folder, stage, ranks, timeout
        self.interval = min(5.0, timeout / 20)  # seconds between heartbeats
        pid = os.getpid()
        self._state = Heartbeat(
            ranks.rank, platform.node(), pid_namespace(), pid, os.getppid(), started=process_start(pid)
        )
        self._last_progress = time.monotonic()
        self._beats = 0
        self._neighbors: list[Heartbeat] | None = None  # other ranks of this node
        self._done, self._verdict_lock, self._write_lock = threading.Event(), threading.Lock(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def at(self, step: int, phase: str) -> None:
        """Report that this rank starts ``phase`` of ``step`` (from 1; 0 before the first). This is cheap."""
        self._state = replace(self._state, step=step, phase=phase, moves=self._state.moves + 1)
        self._last_progress = time.monotonic()

    @property
    def phase(self) -> str:
        """Current phase of this rank."""
        return self._state.phase

    def __enter__(self) -> Watchdog:
        global _active
        comm.from_main(lambda: _empty(self.folder))
        supervisor.share_claim(self.folder / "said")
        self._write()
        comm.barrier()
        self._last_progress = time.monotonic()
        self._thread.start()
        _active = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Record why this rank ends, for the other ranks.

        Raises:
            RankLost: This rank ends because another one did; the error line has been printed.
        """
        global _active
        _active = None
        if error is not None and comm.is_peer_failure(error):
            with self._verdict_lock:
                line, culprits = self._diagnose(wait=False, timed_out=True) or ("", [])
                self._write_traceback(traceback.format_exc())
                self._finish("")
                self._report(line, culprits)
            raise RankLost(line) from error
        if error is None:
            self._finish("")
            supervisor.share_claim(None)
        else:
            reason = str(error).splitlines() or [type(error).__name__]
            self._finish("" if isinstance(error, Preempted) else reason[0][:400])
            if isinstance(error, Preempted):
                self._wait_until_all_ended()

    def _wait_until_all_ended(self) -> None:
        """Wait for the other ranks: a launcher ends them at once when the first rank leaves with a status above 0."""
        deadline = time.monotonic() + LEAVE_LIMIT
        while time.monotonic() < deadline:
            others = [state for state in self._read().values() if state.ended is None and not self._is_dead(state)]
            if not others:
                return
            time.sleep(LEAVE_POLL)

    def _finish(self, reason: str) -> None:
        self._done.set()
        self._state = replace(self._state, ended=reason)
        self._write()

    def _watch(self) -> None:
        """Run the thread: write heartbeats, and check the other ranks when this one makes no progress."""
        while not self._done.wait(self.interval):
            self._write()
            idle = time.monotonic() - self._last_progress
            limit = self.timeout if self._state.moves else max(self.timeout, START_LIMIT)
            timed_out = idle > limit - (MISSED_BEATS + 1) * self.interval  # the diagnosis takes MISSED_BEATS intervals
            died = self._neighbor_died()
            if not (timed_out or died) and (idle < QUIET or self.ranks.local_rank):  # one rank per node checks
                continue
            moves = self._state.moves
            verdict = self._diagnose(wait=not died, timed_out=timed_out)
            with self._verdict_lock:
                if verdict and not self._done.is_set() and (died or self._state.moves == moves):
                    stack = traceback.format_stack(sys._current_frames()[threading.main_thread().ident or 0])
                    self._write_traceback("".join(["Traceback (most recent call last):\n", *stack]))
                    self._report(*verdict)
                    sys.stdout.flush()
                    # the main thread is inside a collective or a read that never returns: sys.exit would not end it
                    os._exit(RankLost.STATUS)

    def _write_traceback(self, text: str) -> None:
        with suppress(OSError):
            (self.folder / f"rank-{self.ranks.rank:05d}.txt").write_text(text)

    def _neighbor_died(self) -> bool:
        """Return whether a rank of this node has died. NCCL does not notice, and the launcher soon ends this rank."""
        if self._neighbors is None:
            first = self.ranks.rank - self.ranks.local_rank
            local = launcher.read().local_world_size or self.ranks.world_size
            others = self._read(range(first, min(first + local, self.ranks.world_size)))
            self._neighbors = [state for rank, state in others.items() if rank != self.ranks.rank]
        dead = [state.rank for state in self._neighbors if self._is_dead(state)]
        return bool(dead) and any(state.ended != "" for state in self._read(dead).values())

    def _diagnose(self, wait: bool, timed_out: bool) -> Verdict | None:
        """Find the ranks to blame.

        Args:
            wait: Wait long enough to see which ranks are silent. Otherwise, a connection is already broken, and the
                first rank seen to have ended is the cause.
            timed_out: The time limit has passed, so blame a rank even if all are alive.
        """
        before = self._read()
        for _ in range(MISSED_BEATS):
            if not wait and any(state.ended or self._died(state) for state in self._read().values()):
                break
            time.sleep(self.interval)
            self._write()
        now = self._read()
        return self._lost(before, now) or (self._hanging(now) if timed_out else None)

    def _lost(self, before: dict[int, Heartbeat], now: dict[int, Heartbeat]) -> Verdict | None:
        """Find ranks that failed, died or are silent; ``before`` was read some beats before ``now``."""
        me = self.ranks.rank
        others = [state for state in now.values() if state.rank != me and state.ended != ""]
        here = f"noticed by rank {me} while {self._state.place}"  # where the others are may be a beat old
        if failed := [state for state in others if state.ended]:
            return f"{failed[0].name} ended while {failed[0].place}: {failed[0].ended}; {RESUME}", failed
        if dead := [state for state in others if self._died(state)]:
            return f"{_names(dead)} died without an error message (killed? out of memory?); {here}; {RESUME}", dead
        frozen = {rank for rank, state in now.items() if rank in before and before[rank].beat == state.beat}
        silent = [state for state in others if state.rank in frozen]
        if silent and me not in frozen:  # if its own counter is frozen too, this rank cannot write: blame nobody
            return f"{_names(silent)} gives no sign of life: stopped, or its node is lost; {here}; {RESUME}", silent
        return None

    def _hanging(self, now: dict[int, Heartbeat]) -> Verdict:
        """Find the ranks with the least progress, if all are alive."""
        alive = [state for state in now.values() if state.ended is None] or [self._state]
        busy = [state for state in alive if state.phase != WAITING] or alive
        slow = [state for state in busy if state.moves == min(other.moves for other in busy)]
        stuck = f"{slow[0].place} for run.timeout = {self.timeout:g} s"
        if len(slow) < len(alive) or len(alive) == 1:
            return f"{_names(slow)} hangs: {stuck}; {RESUME}", slow
        return f"all ranks are alive, but none makes progress: {stuck}; {RESUME}", []

    def _report(self, line: str, culprits: list[Heartbeat]) -> None:
        """Print the line, and kill stopped ranks of this node: their launcher would wait long for them to end."""
        console.print_once(f"vitas {self.stage}: {line}")
        for state in culprits:
            same_process = self._is_local(state) and state_of(state.pid)[1] == state.parent
            if state.rank != self.ranks.rank and same_process:
                with suppress(OSError):
                    os.kill(state.pid, signal.SIGKILL)

    def _died(self, state: Heartbeat) -> bool:
        """Return whether a rank is dead without having said why it ends."""
        return state.ended is None and self._is_dead(state)

    def _is_dead(self, state: Heartbeat) -> bool:
        return self._is_local(state) and state_of(state.pid)[0] in ("", "Z")

    def _is_local(self, state: Heartbeat) -> bool:
        return (state.host, state.space) == (self._state.host, self._state.space)

    def _write(self) -> None:
        """Overwrite this rank's file in place. On NFS, other nodes may not see a renamed file for a while."""
        with self._write_lock, suppress(OSError):  # a full disk must not end the job
            self._beats += 1
            text = json.dumps(asdict(self._state) | {"beat": self._beats}).encode().ljust(FILE_SIZE)
            handle = os.open(self._path(self.ranks.rank), os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
            try:
                os.write(handle, text)
            finally:
                os.close(handle)

    def _read(self, ranks: Iterable[int] | None = None) -> dict[int, Heartbeat]:
        states = {}
        for rank in range(self.ranks.world_size) if ranks is None else ranks:
            with suppress(OSError, ValueError, TypeError, UserError):
                check_regular(self._path(rank))
                states[rank] = Heartbeat(**json.loads(self._path(rank).read_text()))
        return states

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _names(states: list[Heartbeat]) -> str:
    return ", ".join(state.name for state in states[:4]) + (f" and {len(states) - 4} more" if len(states) > 4 else "")

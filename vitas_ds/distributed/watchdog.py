"""A rank that hangs or dies ends the job, with one line that says which rank it was, and where the others were.

Ranks wait for each other, in a training many times a step, so that one that stands still (a stalled disk, a stopped
process, a lost node) holds up all, and one that dies breaks a connection somewhere else. Each rank writes a sign of
life into a file of the run's folder, from a thread of its own; nobody reads these files unless something is wrong:

    runs/NAME/life/rank-00000.json ...  last sign of life: step, what it was doing, and a beat that goes on
                   rank-00000.txt ...   traceback of a rank that lost another one
                   said                 there once a rank has spoken

``with Watchdog(...) as watch: watch.at(step, "waiting for data")``. All ranks call ``at`` in the same order; where some
have less to do than others, they say that they are ``WAITING`` for them. The function ``at`` is for code that may also
run where no watchdog is.
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
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from vitas_ds.distributed import comm, console
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import Preempted, RankLost

SIZE = 4096  # bytes of a file, whatever is in it
START = 300  # seconds that a start may take at least: libraries are loaded and compiled
QUIET = 20  # seconds without progress after which a rank looks whether all others are still there
LOOKS = 3  # beats that a rank may miss before it counts as silent
WAITING = "waiting for the other ranks"
AGAIN = "started again, the stage goes on from what it has saved"


@dataclass(frozen=True)
class Sign:
    """A rank's sign of life. ``moves`` counts its calls of ``at``; ``ended`` is why it ended ("": no fault of its)."""

    rank: int
    host: str
    space: str  # process ids are comparable where host and space are the same
    pid: int
    step: int = 0
    phase: str = "starting"
    moves: int = 0
    beat: int = 0
    ended: str | None = None

    @property
    def name(self) -> str:
        """Which process."""
        return f"rank {self.rank} (host {self.host}, process {self.pid})"

    @property
    def place(self) -> str:
        """Where in the training."""
        return f"{self.phase}, step {self.step}" if self.step else self.phase


def at(phase: str = "") -> None:
    """This rank has got to ``phase`` of its stage ("": on in the same); heard by the watchdog entered, if any."""
    if _entered is not None:
        _entered.at(0, phase or _entered.phase)


_entered: Watchdog | None = None  # a process runs one stage at a time

Verdict = tuple[str, list[Sign]]  # the line, and the ranks that it blames


class Watchdog:
    """Watches over the ranks while it is entered.

    A rank that ended, died or is silent (its process stopped, its node lost) ends the job in less than a minute; one
    that lives and does not get on, after ``timeout`` (before the first step not before ``START``).

    Args:
        folder: where the signs are written; what an earlier start left there is removed.
        stage: begins the line.
        timeout: seconds without progress after which the job ends (``run.timeout``).
    """

    def __init__(self, folder: Path, stage: str, ranks: Ranks, timeout: float) -> None:
        self.folder, self.stage, self.ranks, self.timeout = folder, stage, ranks, timeout
        self.beat = min(5.0, timeout / 20)
        self._sign = Sign(ranks.rank, platform.node(), _pid_space(), os.getpid())
        self._since = time.monotonic()
        self._beats = 0
        self._done, self._verdict, self._writing = threading.Event(), threading.Lock(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def at(self, step: int, phase: str) -> None:
        """This rank has got to ``phase`` of ``step`` (from 1; 0: before the first). It costs nothing."""
        self._sign = replace(self._sign, step=step, phase=phase, moves=self._sign.moves + 1)
        self._since = time.monotonic()

    @property
    def phase(self) -> str:
        """What this rank does now."""
        return self._sign.phase

    def __enter__(self) -> Watchdog:
        global _entered
        comm.from_main(lambda: _fresh(self.folder))
        console.share(self.folder / "said")
        self._write()
        comm.barrier()
        self._since = time.monotonic()
        self._thread.start()
        _entered = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Tell the others why this rank ends.

        Raises:
            RankLost: it ends because another rank did; the line was printed.
        """
        global _entered
        _entered = None
        if error is not None and comm.lost_peer(error):
            with self._verdict:
                line, culprits = self._judge(patient=False, over=True) or ("", [])
                with suppress(OSError):
                    (self.folder / f"rank-{self.ranks.rank:05d}.txt").write_text(traceback.format_exc())
                self._leave("")
                self._say(line, culprits)
            raise RankLost(line) from error
        if error is None:
            self._leave("")
            console.share(None)
        else:
            reason = str(error).splitlines() or [type(error).__name__]
            self._leave("" if isinstance(error, Preempted) else reason[0][:400])

    def _leave(self, reason: str) -> None:
        self._done.set()
        self._sign = replace(self._sign, ended=reason)
        self._write()

    def _watch(self) -> None:
        """The thread: beat, and look at the others when this rank does not get on."""
        while not self._done.wait(self.beat):
            self._write()
            still = time.monotonic() - self._since
            limit = self.timeout if self._sign.moves else max(self.timeout, START)
            over = still > limit - (LOOKS + 1) * self.beat
            if not over and (still < QUIET or self.ranks.local_rank):  # one rank a node looks early
                continue
            moves = self._sign.moves
            verdict = self._judge(patient=True, over=over)
            with self._verdict:
                if verdict and not self._done.is_set() and self._sign.moves == moves:
                    self._say(*verdict)
                    sys.stdout.flush()
                    os._exit(RankLost.STATUS)  # the main thread is inside a call that does not come back

    def _judge(self, patient: bool, over: bool) -> Verdict | None:
        """Who is to blame.

        Args:
            patient: wait long enough to tell who is silent; else, some rank is gone, and whose end is seen is it.
            over: the time is up, so that somebody is to blame though all are alive.
        """
        before = self._read()
        for _ in range(LOOKS):
            if not patient and any(sign.ended or self._is_dead(sign) for sign in self._read().values()):
                break
            time.sleep(self.beat)
            self._write()
        now = self._read()
        return self._lost(before, now) or (self._hanging(now) if over else None)

    def _lost(self, before: dict[int, Sign], now: dict[int, Sign]) -> Verdict | None:
        """Ranks that are no more; ``before`` was read some beats before ``now``."""
        me = self.ranks.rank
        others = [sign for sign in now.values() if sign.rank != me and sign.ended != ""]
        here = f"rank {me} missed it while {self._sign.place}"  # their own last sign may be a beat old
        if failed := [sign for sign in others if sign.ended]:
            return f"{failed[0].name} ended while {failed[0].place}: {failed[0].ended}; {AGAIN}", failed
        if dead := [sign for sign in others if self._is_dead(sign)]:
            return f"{_names(dead)} died without a word (killed? out of memory?); {here}; {AGAIN}", dead
        frozen = {rank for rank, sign in now.items() if rank in before and before[rank].beat == sign.beat}
        silent = [sign for sign in others if sign.rank in frozen]
        if silent and me not in frozen:  # or it is this rank that cannot write
            return f"{_names(silent)} gives no sign of life: stopped, or its node is lost; {here}; {AGAIN}", silent
        return None

    def _hanging(self, now: dict[int, Sign]) -> Verdict:
        """Of ranks that are all alive, those that are behind the others."""
        alive = [sign for sign in now.values() if sign.ended is None] or [self._sign]
        busy = [sign for sign in alive if sign.phase != WAITING] or alive
        slow = [sign for sign in busy if sign.moves == min(other.moves for other in busy)]
        stuck = f"{slow[0].place} for run.timeout = {self.timeout:g} s"
        if len(slow) < len(alive) or len(alive) == 1:
            return f"{_names(slow)} hangs: {stuck}; {AGAIN}", slow
        return f"all ranks hang, though they are alive: {stuck}; {AGAIN}", []

    def _say(self, line: str, culprits: list[Sign]) -> None:
        """Say it, and end stopped ranks that our launcher started too: it asks them to end, and waits long for that."""
        console.say(f"vitas {self.stage}: {line}")
        for sign in culprits:
            if sign.rank != self.ranks.rank and self._is_near(sign) and _process(sign.pid)[1] == str(os.getppid()):
                with suppress(OSError):
                    os.kill(sign.pid, signal.SIGKILL)

    def _is_dead(self, sign: Sign) -> bool:
        return self._is_near(sign) and _process(sign.pid)[0] in ("", "Z")

    def _is_near(self, sign: Sign) -> bool:
        return (sign.host, sign.space) == (self._sign.host, self._sign.space)

    def _write(self) -> None:
        """Over the old sign, in place: a file that is renamed may stay unseen on other nodes for a while."""
        with self._writing, suppress(OSError):  # a full disk is not a reason to end
            self._beats += 1
            text = json.dumps(asdict(self._sign) | {"beat": self._beats}).encode().ljust(SIZE)
            handle = os.open(self._path(self.ranks.rank), os.O_WRONLY | os.O_CREAT)
            try:
                os.write(handle, text)
            finally:
                os.close(handle)

    def _read(self) -> dict[int, Sign]:
        signs = {}
        for rank in range(self.ranks.world_size):
            with suppress(OSError, ValueError, TypeError):
                signs[rank] = Sign(**json.loads(self._path(rank).read_text()))
        return signs

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _names(signs: list[Sign]) -> str:
    return ", ".join(sign.name for sign in signs[:4]) + (f" and {len(signs) - 4} more" if len(signs) > 4 else "")


def _pid_space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process(pid: int) -> tuple[str, str]:
    """State and parent of a process, as /proc says; empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[1]
    except OSError:
        return "", ""

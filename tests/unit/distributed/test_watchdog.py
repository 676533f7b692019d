"""Which rank the watchdog blames, given heartbeats. Real processes are in tests/faults/test_hang.py.

Reference: heartbeats written by hand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from vitas_ds.distributed import console, watchdog
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.watchdog import Heartbeat, Watchdog
from vitas_ds.errors import Preempted, UserError

BEAT = Heartbeat(0, "elsewhere", "", 1, step=7, phase="computing", moves=15, beat=100)


def blame(*pairs: tuple[Heartbeat, Heartbeat]) -> str:
    """Return the line that rank 0 prints after it read two heartbeats of each rank."""
    watch = Watchdog(Path("nowhere"), "train-supernet", Ranks(0, len(pairs), 0, torch.device("cpu")), 60)
    watch.at(8, "computing")
    before, now = ({pair[i].rank: pair[i] for pair in pairs} for i in (0, 1))
    return (watch._lost(before, now) or watch._hanging(now))[0]


def beats(rank: int, count: int = 3, **changes: object) -> tuple[Heartbeat, Heartbeat]:
    first = replace(BEAT, rank=rank)
    return first, replace(first, beat=100 + count, **changes)  # type: ignore[arg-type]


def test_blames_failed_then_dead_then_silent_then_slow_ranks() -> None:
    late, silent, failed = (
        beats(1, moves=14, phase="waiting for data"),
        beats(2, count=0),
        beats(3, ended="bad.jpg: bad"),
    )
    assert "rank 3 (host elsewhere, process 1) ended while computing, step 7: bad.jpg: bad" in blame(
        beats(0), late, silent, failed
    )
    assert "rank 2 (host elsewhere, process 1) gives no sign of life" in blame(beats(0), late, silent)
    assert "noticed by rank 0 while computing, step 8" in blame(beats(0), late, silent)
    assert "rank 1 (host elsewhere, process 1) hangs: waiting for data, step 7" in blame(beats(0), late, beats(2))
    assert "all ranks are alive, but none makes progress: computing, step 7" in blame(beats(0), beats(1))
    assert "rank 1" not in blame(beats(0), beats(1, count=0, ended=""), silent)  # it ended because of another one


def test_a_waiting_rank_is_not_blamed() -> None:
    """In an evaluation or a search, a rank may have less work than others and end with fewer calls of ``at``."""
    waiting = beats(2, moves=9, phase=watchdog.WAITING)
    assert "rank 1 (host elsewhere, process 1) hangs: scoring" in blame(
        beats(0, phase=watchdog.WAITING), beats(1, moves=10, phase="scoring"), waiting
    )
    assert "all ranks are alive" in blame(beats(0, phase=watchdog.WAITING), beats(1, phase=watchdog.WAITING))


def test_at_works_without_a_watchdog(tmp_path: Path) -> None:
    watchdog.at("scoring candidate 1 of 2")
    with Watchdog(tmp_path, "search", Ranks(0, 1, 0, torch.device("cpu")), 60) as watch:
        watchdog.at("scoring candidate 1 of 2")
        moves = watch._state.moves
        watchdog.at()
        assert (watch.phase, watch._state.moves) == ("scoring candidate 1 of 2", moves + 1)
    watchdog.at("computing")
    assert watch.phase == "scoring candidate 1 of 2"


def test_a_dead_process(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    watch = Watchdog(tmp_path, "retrain", Ranks(0, 2, 0, torch.device("cpu")), 60)
    other = replace(watch._state, rank=1, pid=gone.pid)
    lost = watch._lost({}, {0: watch._state, 1: other})
    assert lost and lost[1] == [other] and "rank 1" in lost[0] and "died" in lost[0]
    assert watch._lost({}, {0: watch._state, 1: replace(other, pid=os.getpid())}) is None


def test_a_rank_that_cannot_write_blames_nobody() -> None:
    assert "gives no sign of life" not in blame(beats(0, count=0), beats(1, count=0), beats(2))


def test_heartbeats_remain_and_one_rank_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    (tmp_path / "said").write_text("")
    with pytest.raises(UserError), Watchdog(tmp_path, "retrain", ranks, 60) as watch:
        watch.at(3, "saving")
        raise UserError("no room\nat all")
    left = json.loads((tmp_path / "rank-00000.json").read_text())
    assert (left["step"], left["phase"], left["ended"]) == (3, "saving", "no room")
    assert set(left) == set(asdict(BEAT))
    assert console.print_once("first") and not console.print_once("second")
    assert capsys.readouterr().err == "first\n"
    with pytest.raises(Preempted), Watchdog(tmp_path, "retrain", ranks, 60):
        raise Preempted
    assert json.loads((tmp_path / "rank-00000.json").read_text())["ended"] == ""
    with Watchdog(tmp_path, "retrain", ranks, 60):
        pass
    assert console.print_once("without a watchdog, rank 0 prints") and console.print_once("every line")

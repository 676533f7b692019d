"""Who is blamed, from signs of life as ranks leave them; real processes are in tests/faults/test_hang.py."""

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
from vitas_ds.distributed.watchdog import Sign, Watchdog
from vitas_ds.errors import Preempted, UserError

SIGN = Sign(0, "elsewhere", "", 1, step=7, phase="computing", moves=15, beat=100)


def blame(*pairs: tuple[Sign, Sign]) -> str:
    """The line of rank 0 for two readings of each rank's sign."""
    watch = Watchdog(Path("nowhere"), "train-supernet", Ranks(0, len(pairs), 0, torch.device("cpu")), 60)
    watch.at(8, "computing")
    before, now = ({pair[i].rank: pair[i] for pair in pairs} for i in (0, 1))
    return (watch._lost(before, now) or watch._hanging(now))[0]


def sign(rank: int, beats: int = 3, **changes: object) -> tuple[Sign, Sign]:
    first = replace(SIGN, rank=rank)
    return first, replace(first, beat=100 + beats, **changes)  # type: ignore[arg-type]


def test_blame_goes_to_who_ended_then_who_died_then_who_is_silent_then_who_is_behind() -> None:
    late, silent, failed = sign(1, moves=14, phase="waiting for data"), sign(2, beats=0), sign(3, ended="bad.jpg: bad")
    assert "rank 3 (host elsewhere, process 1) ended while computing, step 7: bad.jpg: bad" in blame(
        sign(0), late, silent, failed
    )
    assert "rank 2 (host elsewhere, process 1) gives no sign of life" in blame(sign(0), late, silent)
    assert "rank 0 missed it while computing, step 8" in blame(sign(0), late, silent)
    assert "rank 1 (host elsewhere, process 1) hangs: waiting for data, step 7" in blame(sign(0), late, sign(2))
    assert "all ranks hang, though they are alive: computing, step 7" in blame(sign(0), sign(1))
    assert "rank 1" not in blame(sign(0), sign(1, beats=0, ended=""), silent)  # it followed another one


def test_who_waits_for_the_others_does_not_hang() -> None:
    """Ranks of an evaluation or a search may have less to do than others, and have said less when they are done."""
    waiting = sign(2, moves=9, phase=watchdog.WAITING)
    assert "rank 1 (host elsewhere, process 1) hangs: scoring" in blame(
        sign(0, phase=watchdog.WAITING), sign(1, moves=10, phase="scoring"), waiting
    )
    assert "all ranks hang" in blame(sign(0, phase=watchdog.WAITING), sign(1, phase=watchdog.WAITING))


def test_what_runs_without_a_watchdog_may_tell_it_too(tmp_path: Path) -> None:
    watchdog.at("scoring net 1 of 2")
    with Watchdog(tmp_path, "search", Ranks(0, 1, 0, torch.device("cpu")), 60) as watch:
        watchdog.at("scoring net 1 of 2")
        moves = watch._sign.moves
        watchdog.at()
        assert (watch.phase, watch._sign.moves) == ("scoring net 1 of 2", moves + 1)
    watchdog.at("computing")
    assert watch.phase == "scoring net 1 of 2"


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    watch = Watchdog(tmp_path, "retrain", Ranks(0, 2, 0, torch.device("cpu")), 60)
    other = replace(watch._sign, rank=1, pid=gone.pid)
    lost = watch._lost({}, {0: watch._sign, 1: other})
    assert lost and lost[1] == [other] and "rank 1" in lost[0] and "died" in lost[0]
    assert watch._lost({}, {0: watch._sign, 1: replace(other, pid=os.getpid())}) is None


def test_a_rank_that_cannot_write_blames_nobody() -> None:
    assert "gives no sign of life" not in blame(sign(0, beats=0), sign(1, beats=0), sign(2))


def test_signs_are_left_and_one_rank_speaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    (tmp_path / "said").write_text("")
    with pytest.raises(UserError), Watchdog(tmp_path, "retrain", ranks, 60) as watch:
        watch.at(3, "saving")
        raise UserError("no room\nat all")
    left = json.loads((tmp_path / "rank-00000.json").read_text())
    assert (left["step"], left["phase"], left["ended"]) == (3, "saving", "no room")
    assert set(left) == set(asdict(SIGN))
    assert console.say("first") and not console.say("second")
    assert capsys.readouterr().err == "first\n"
    with pytest.raises(Preempted), Watchdog(tmp_path, "retrain", ranks, 60):
        raise Preempted
    assert json.loads((tmp_path / "rank-00000.json").read_text())["ended"] == ""
    with Watchdog(tmp_path, "retrain", ranks, 60):
        pass
    assert console.say("rank 0 speaks where no watchdog is") and console.say("each time")

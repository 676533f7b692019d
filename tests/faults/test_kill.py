"""Kill a rank at random moments and during a save: the resumed job ends like an uninterrupted one.

Reference: an uninterrupted run of the same steps.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.launching import environment, launch, start_process, start_task, wait_for_process

STEPS = "12"
KILLS = (  # ZeRO stage, step, rank to kill, during the save of the step or after it
    ("zero0", 4, 0, True),
    ("zero1", 9, 0, False),
    ("zero2", 6, 1, False),
    ("zero3", 3, 1, True),
    ("zero2_offload", 5, 0, True),
    ("zero3_offload", 7, 1, False),
)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    uninterrupted = launch(tmp_path / "a.json", "train_to_end", _folder(tmp_path, "a"), STEPS)
    assert {row.split()[0] for row in uninterrupted} == {zero for zero, *_ in KILLS}  # every ZeRO stage
    folder, rng = _folder(tmp_path, "b"), random.Random(0)
    for nth, (zero, step, victim, inside) in enumerate(KILLS):
        launcher = "torchrun" if nth % 3 else "deepspeed"
        job, _ = start_task(tmp_path / "b.json", "train_to_end", folder, STEPS, launcher=launcher)
        try:
            _wait_for(Path(folder, zero), step, inside)
            time.sleep(0 if inside else rng.random() * 0.05)
            os.kill(int(Path(folder, f"pid-{victim}").read_text()), signal.SIGKILL)
            job.communicate(timeout=90)  # the launcher or the timeout of the job ends the other rank
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
        assert job.returncode != 0
        assert not (tmp_path / "b.json").exists()
    assert launch(tmp_path / "b.json", "train_to_end", folder, STEPS) == uninterrupted


@pytest.mark.slow
def test_a_kill_during_a_save_leaves_whole_checkpoints(tmp_path: Path) -> None:
    """Kill one rank or both at random moments of a save in the background, in each ZeRO stage."""
    args = [sys.executable, "-m", "tests.faults.save_kills", str(tmp_path), "0", "12"]
    lines = wait_for_process(start_process(args, environment()), args, limit=400).splitlines()
    lines = [line for line in lines if line.startswith("seed ")]
    print("\n".join(lines))
    assert len(lines) == 12 and all(line.endswith(": good") for line in lines)
    assert any("saving-step" in line for line in lines)  # some kills hit a save


def _folder(tmp_path: Path, name: str) -> str:
    (tmp_path / name).mkdir()
    return str(tmp_path / name)


def _wait_for(folder: Path, step: int, inside: bool) -> None:
    """Wait until the checkpoint of a step is being written (``inside``) or is complete."""
    checkpoint = folder / f"{'saving-' if inside else ''}step-{step:08d}"
    limit = time.time() + 90
    while not checkpoint.exists():
        assert time.time() < limit, f"no {checkpoint} after 90 s: {sorted(p.name for p in folder.glob('*'))}"
        time.sleep(0.0002)

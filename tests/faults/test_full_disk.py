"""A rank that cannot write its part of a checkpoint ends the job on all ranks, with one line; the run can resume.

Reference: a real limit on the size of files, set for one rank while it trains.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path

from tests.faults.test_hang import error_line, harm, stage_args
from tests.helpers.digits import write_digits
from tests.helpers.launching import run_stage
from vitas_ds.training import checkpoint_files


def test_a_rank_without_space_stops_all(tmp_path: Path) -> None:
    args = stage_args(tmp_path, write_digits(tmp_path / "digits"))
    saving = [*args, "supernet.epochs=10", "supernet.save_every=20", "run.timeout=60"]
    status, output, _ = harm(saving, lambda pids: resource.prlimit(pids[1], resource.RLIMIT_FSIZE, (20_000, 20_000)))
    line = error_line(output)
    assert status != 0
    expected = (
        r"train-supernet: checkpoint of step (\d+): rank 1 could not write: /.*/shard-00001\S*: "
        r"the file is too large \(.* MB free\); start"
    )
    match = re.search(expected, line)
    assert match, output
    folder = tmp_path / "tiny" / "supernet" / "checkpoints"
    assert f"step-{int(match[1]):08d}" not in [path.name for path in checkpoint_files.list_checkpoints(folder)]
    steps = [int(step) for step in re.findall(r"train-supernet +(\d+)/", output)]
    assert max(steps, default=0) <= int(match[1]) + 4, output  # the next step after the error, and a slow disk
    done = run_stage("train-supernet", saving, launcher="torchrun")
    assert "steps, loss" in done
    assert not list(folder.glob("saving-*"))

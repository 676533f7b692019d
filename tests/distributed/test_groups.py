"""Groups of ranks that work independently. Reference: sums by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.helpers.launching import command, environment, free_port, start_process, wait_for_process

WORKER = Path(__file__).with_name("groups_worker.py")


def test_collectives_of_groups_and_a_meeting_without_a_time_limit(tmp_path: Path) -> None:
    """A collective may take 5 seconds; the ranks wait 8 for the last one."""
    out = tmp_path / "out.json"
    args = [*command("torchrun", 4), str(WORKER), str(out), "collectives"]
    wait_for_process(start_process(args, environment()), args, 120)
    ranks = json.loads(out.read_text())
    for rank, found in enumerate(ranks):
        assert found["1"] == {"index": 0, "rank": rank, "mean": [1.5, 3.0], "sum": 6, "previous": (rank - 1) % 4}
        pair = rank // 2
        mean, other = 2 * pair + 0.5, 4 * pair + 1 - rank
        expected = {"index": pair, "rank": rank % 2, "mean": [mean, 2 * mean], "sum": 4 * pair + 1, "previous": other}
        assert found["2"] == expected
        assert found["4"] == {"index": rank, "rank": 0, "mean": [rank, 2 * rank], "sum": rank, "previous": rank}
        assert found["meeting"]["late"] is True and found["meeting"]["none"] is False
        assert (found["meeting"]["polls"] > 20) == (rank != 3)


def test_a_rank_that_dies_is_noticed_at_the_meeting(tmp_path: Path) -> None:
    """Without a launcher that would end the other ranks."""
    out, port = tmp_path / "out.json", str(free_port())
    args = [sys.executable, str(WORKER), str(out), "death"]
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "MASTER_PORT": port}
    job["SLURM_LAUNCH_NODE_IPADDR"] = "127.0.0.1"
    ranks = [
        start_process(args, environment(**job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))) for rank in (0, 1)
    ]
    wait_for_process(ranks[0], args, 120)
    assert ranks[1].wait(60) == 1
    found = json.loads(out.read_text())
    assert found["noticed"] and found["seconds"] < 60

"""Groups of ranks: ``groups_worker.py OUT TASK``. Rank 0 of the tasks writes its results as JSON to OUT."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from vitas_ds.distributed import comm
from vitas_ds.distributed.groups import MeetingPoint, split


def collectives(out: Path) -> None:
    """Groups of four ranks, and a meeting for which one rank is later than any collective may be."""
    ranks = comm.init("cpu", 5)
    found = {}
    for count in (1, 2, 4):
        group = split(ranks, count, 5)
        rows = torch.tensor([[10.0 * ranks.rank], [ranks.rank]])
        values, total = torch.tensor([float(ranks.rank)]), torch.tensor([ranks.rank])
        scalar = torch.tensor(2.0 * ranks.rank)
        group.mean([values, scalar])
        found[count] = {
            "index": group.index, "rank": group.rank, "mean": [values.item(), scalar.item()],
            "sum": group.sum(total).item(), "previous": group.last_of_previous(rows).item(),
        }  # fmt: skip
    meeting, polls = MeetingPoint(ranks, 5), []
    if ranks.rank == 3:
        time.sleep(8)
    late = meeting.any(ranks.rank == 3, lambda: polls.append(None))
    none = meeting.any(False, lambda: None)
    found["meeting"] = {"late": late, "none": none, "polls": len(polls)}
    results = comm.gather(found)
    if ranks.is_main:
        out.write_text(json.dumps(results))
    comm.close()


def death(out: Path) -> None:
    """Rank 1 dies while rank 0 waits for it."""
    ranks = comm.init("cpu", 600)
    meeting = MeetingPoint(ranks, 600)
    if ranks.rank == 1:
        time.sleep(1)
        os._exit(1)
    start = time.monotonic()
    try:
        meeting.any(False, lambda: None)
    except RuntimeError as error:
        out.write_text(json.dumps({"noticed": comm.is_peer_failure(error), "seconds": time.monotonic() - start}))
    os._exit(0)


if __name__ == "__main__":
    {"collectives": collectives, "death": death}[sys.argv[2]](Path(sys.argv[1]))

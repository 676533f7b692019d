"""Record of training steps with a non-finite gradient, for ``--replay`` (replay.py).

runs/NAME/supernet/divergence.json       the latest consecutive skipped steps: subnets, and for each rank the loss
                                         and the images
runs/NAME/supernet/divergence/step-...   checkpoint with the weights of the first of them, saved when training stops
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json, write_json
from vitas_ds.training.task import Task


def checkpoints_of(record: Path) -> Path:
    """Return the folder of the checkpoint that belongs to a record."""
    return record.with_suffix("")


def record_step(task: Task, ranks: Ranks, step: int, count: int, loss: float, ids: Tensor) -> str:
    """Record a step with a non-finite gradient. All ranks must call this.

    Args:
        task: The training task.
        ranks: The ranks of the job.
        step: The step, from 1.
        count: Number of consecutive skipped steps, including this one.
        loss: Loss of this rank.
        ids: Indices of this rank's images.

    Returns:
        Description of the step: ranks with a non-finite loss, and subnets.
    """
    gathered = comm.gather((loss, ids.tolist()))
    subnets = task.subnets(step - 1)
    if ranks.is_main:
        rows = [
            {"rank": rank, "loss": value, "finite": math.isfinite(value), "ids": list(indices),
             "images": [task.images.file(i) for i in indices]}
            for rank, (value, indices) in enumerate(gathered)
        ]  # fmt: skip
        file = task.folder.divergence
        previous = read_json(file, {}).get("steps", []) if count > 1 else []
        entry = {"step": step, "nets": [spec.to_dict() for spec in subnets], "ranks": rows}
        write_json(file, {"stage": task.stage, "world_size": ranks.world_size, "steps": [*previous, entry]})
    bad = [str(rank) for rank, (value, _) in enumerate(gathered) if not math.isfinite(value)]
    problem = f"loss not finite on rank {', '.join(bad)}" if bad else "loss finite on all ranks, gradient not finite"
    return f"step {step}: {problem}; subnet {' and '.join(map(_describe, subnets))}"


def _describe(spec: SubnetSpec) -> str:
    return f"embed_dim {spec.embed_dim}, depth {spec.depth}, patch_size {spec.patch_size}"


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        UserError: The file is missing, or is not a record.
    """
    data = read_json(path, None)
    if data is None:
        raise UserError(f"{path}: no such file; training writes it after a step with a non-finite gradient")
    try:
        valid = {"stage", "world_size"} <= data.keys() and "step" in data["steps"][0]
        valid = valid and all({"rank", "loss", "finite", "images"} <= row.keys() for row in data["steps"][0]["ranks"])
    except (KeyError, TypeError, IndexError, AttributeError):
        valid = False
    if not valid:
        raise UserError(f"{path}: not a divergence record")
    return data

"""What a training that diverges leaves behind, so that the step can be looked at again (replay.py).

runs/NAME/supernet/divergence.json       the latest steps in a row that were skipped: nets, and of each rank the
                                         loss and the images
runs/NAME/supernet/divergence/step-...   where the training ended there: the weights that they were computed with
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json, write_json


def record(
    path: Path, ranks: Ranks, stage: str, step: int, nth: int, nets: list[SubnetSpec], loss: float, ids: Tensor,
    images: ImageSet,
) -> str:  # fmt: skip
    """Write down a step (from 1) whose gradient was not finite, the ``nth`` in a row. All ranks call it.

    Returns:
        The step, the ranks whose loss was not finite, and the nets, in words.
    """
    seen = comm.gather((loss, ids.tolist()))
    bad = [str(rank) for rank, (value, _) in enumerate(seen) if not math.isfinite(value)]
    where = f"loss not finite on rank {', '.join(bad)}" if bad else "loss finite on all ranks, gradient not"
    if ranks.is_main:
        rows = [
            {"rank": rank, "loss": value, "finite": math.isfinite(value), "ids": list(chosen),
             "images": [images.file(i) for i in chosen]}
            for rank, (value, chosen) in enumerate(seen)
        ]  # fmt: skip
        before = read_json(path, {}).get("steps", []) if nth > 1 else []
        entry = {"step": step, "nets": [net.to_dict() for net in nets], "ranks": rows}
        write_json(path, {"stage": stage, "world_size": ranks.world_size, "steps": [*before, entry]})
    return f"step {step}: {where}; net {' and '.join(map(_words, nets))}"


def _words(net: SubnetSpec) -> str:
    return f"{net.embed_dim} wide, {net.depth} deep, patches of {net.patch_size}"


def read(path: Path) -> dict[str, Any]:
    """A record. Raises ``UserError`` if there is none, or it is none."""
    data = read_json(path, None)
    if data is None:
        raise UserError(f"{path}: no such file; a training that diverges leaves it")
    try:
        whole = {"stage", "world_size"} <= data.keys() and "step" in data["steps"][0]
        whole = whole and all({"rank", "loss", "finite", "images"} <= row.keys() for row in data["steps"][0]["ranks"])
    except (KeyError, TypeError, IndexError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path}: not the record of a divergence")
    return data

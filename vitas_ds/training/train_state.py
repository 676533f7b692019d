"""Where a training is: what a checkpoint keeps beside weights and optimizer. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError


@dataclass
class Progress:
    """The loop's own state; the rest of a run is a function of (seed, step)."""

    step: int = 0
    seconds: float = 0.0  # spent in this stage, over all starts
    loss_sum: float = 0.0  # of this rank, since the last record
    loss_steps: int = 0
    loss: float = float("nan")  # mean over ranks of the last record
    nonfinite: int = 0  # skipped steps in a row
    mean: float = 0.0  # running mean of this rank's loss, see ``learn``
    mean_steps: int = 0
    replaced: int = 0  # unreadable images that others stood in for, on this rank
    files: str = ""  # fingerprint of the training images, on which their order hangs

    def learn(self, loss: float, window: int) -> None:
        """Take the loss of a step into the running mean over about ``window`` steps, which tells good checkpoints from
        bad ones: single steps train different nets on different images, and say little.
        """
        self.mean_steps += 1
        self.mean += (loss - self.mean) / min(self.mean_steps, window)


PER_RANK = ("loss_sum", "mean", "replaced")


def state_of(progress: Progress) -> dict[str, Any]:
    """What a checkpoint keeps: a list of all ranks' values where they differ. All ranks call it."""
    return asdict(progress) | {name: comm.gather(getattr(progress, name)) for name in PER_RANK}


def progress_of(state: dict[str, Any], ranks: Ranks, files: str) -> Progress:
    """This rank's part of ``state_of``; with another number of ranks, rank 0 takes on all that was counted.

    Raises:
        UserError: the training images are not those that the checkpoint was trained on.
    """
    if state["files"] != files:
        raise UserError(
            "data.train: other images than this run was begun with (files, classes or the split have changed), so that "
            "it cannot go on as it was; restore them, or give another run.name"
        )
    mine, before = {}, len(state["loss_sum"])
    for name in PER_RANK:
        values = state.get(name, [0.0] * before)  # checkpoints of earlier versions have no mean
        mine[name] = values[ranks.rank] if before == ranks.world_size else sum(values) * ranks.is_main
    if before != ranks.world_size:  # a sum of losses counts each rank once
        mine["loss_sum"] *= ranks.world_size / before
        mine["mean"] *= ranks.world_size / before
    return Progress(**{**state, **mine})

"""State of the training loop in a checkpoint, in addition to weights and optimizer state."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import UserError

PER_RANK = ("loss_sum", "mean", "replaced")  # fields that differ between ranks


@dataclass
class TrainState:
    """Progress of a training run. Everything else in a run is a function of (seed, step)."""

    step: int = 0  # finished steps
    seconds: float = 0.0  # spent in this stage, over all starts
    loss_sum: float = 0.0  # of this rank, since the last metrics record
    loss_steps: int = 0  # steps in loss_sum
    loss: float = float("nan")  # mean over ranks, in the last metrics record
    nonfinite: int = 0  # consecutive steps skipped because of a non-finite gradient
    mean: float = 0.0  # running mean of this rank's loss, see update_mean
    mean_steps: int = 0  # steps in mean
    replaced: int = 0  # unreadable images of this rank, replaced by others
    files: str = ""  # fingerprint of the training images, which determines their order
    teacher: str = ""  # digest of the teacher; "" without one
    accuracy: float | None = None  # last measured accuracy of the network, see Evaluation.score
    accuracy_step: int = -1  # its step
    best_accuracy: float | None = None  # of the saved checkpoints of this run

    @property
    def is_best(self) -> bool:
        """Whether the accuracy was measured at this step and is above those of all saved checkpoints."""
        if self.accuracy is None or self.accuracy_step != self.step:
            return False
        return self.best_accuracy is None or self.accuracy > self.best_accuracy

    def forget_accuracy(self) -> None:
        """Forget the accuracies that another run measured: its best checkpoint is not in the folder of this run."""
        self.accuracy, self.accuracy_step, self.best_accuracy = None, -1, None

    def update_mean(self, loss: float, window: int) -> None:
        """Update the running mean of the loss over about ``window`` steps.

        The mean decides which checkpoint is the best. The loss of a single step is too noisy for this: steps train
        different subnets on different images.
        """
        self.mean_steps += 1
        self.mean += (loss - self.mean) / min(self.mean_steps, window)

    def to_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint; ``PER_RANK`` fields are lists over the ranks. All ranks must call this."""
        return asdict(self) | {name: comm.gather(getattr(self, name)) for name in PER_RANK}

    @classmethod
    def from_dict(cls, saved: dict[str, Any], ranks: Ranks, files: str) -> TrainState:
        """Restore the state of this rank.

        If the number of ranks has changed, rank 0 takes over the sums of all ranks.

        Args:
            saved: Result of ``to_dict``.
            ranks: The ranks of this job.
            files: Fingerprint of the training images of this job.

        Raises:
            UserError: The training images are not those of the checkpoint.
        """
        if saved["files"] != files:
            raise UserError(
                "data.train: the images differ from those that this run started with (files, classes, the split or "
                "retrain.eval_images have changed); restore them, or use another run.name"
            )
        own, saved_ranks = {}, len(saved["loss_sum"])
        for name in PER_RANK:
            values = saved.get(name, [0.0] * saved_ranks)  # checkpoints of older versions have no mean
            own[name] = values[ranks.rank] if saved_ranks == ranks.world_size else sum(values) * ranks.is_main
        if saved_ranks != ranks.world_size:
            # rescale, so the mean over the ranks stays the same
            own["loss_sum"] *= ranks.world_size / saved_ranks
            own["mean"] *= ranks.world_size / saved_ranks
        return cls(**{**saved, **own})

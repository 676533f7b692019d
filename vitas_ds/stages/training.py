"""Code that both training stages share: skip a finished stage, find the last checkpoint, replay a step."""

from __future__ import annotations

from pathlib import Path

from vitas_ds.distributed.comm import Ranks
from vitas_ds.run.run_dir import RunDir, TrainingDir, read_summary
from vitas_ds.training import checkpoint_files
from vitas_ds.training.replay import replay
from vitas_ds.training.task import Task


def is_trained(stage: str, weights: Path, run_dir: RunDir, ranks: Ranks) -> bool:
    """Return whether the stage has written its weights, and say so on rank 0."""
    if weights.exists() and ranks.is_main:
        print(f"{stage}: done already, {read_summary(run_dir).get(stage, {}).get('steps', '?')} steps")
    return weights.exists()


def last_checkpoint(folder: TrainingDir) -> Path:
    """Return the checkpoint that training ended with. All ranks must call this."""
    newest = checkpoint_files.newest(folder.checkpoints)
    assert newest is not None, "training ends with a checkpoint"
    return newest


def print_replay(task: Task, file: str, ranks: Ranks) -> None:
    """Compute the first step of a divergence record again; an empty ``file`` is the record of this run."""
    for line in replay(task, Path(file) if file else task.folder.divergence, ranks):
        print(line)

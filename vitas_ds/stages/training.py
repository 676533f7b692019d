"""Code of both training stages: skip a finished one, estimate what one needs, find its last checkpoint, replay."""

from __future__ import annotations

from pathlib import Path

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Teacher, Training
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import memory
from vitas_ds.engine.memory import FP32
from vitas_ds.run.overview import format_size
from vitas_ds.run.run_dir import RunDir, TrainingDir
from vitas_ds.run.summary import read_summary
from vitas_ds.stages.model_folders import INIT, TIMM
from vitas_ds.training import checkpoint_files
from vitas_ds.training.replay import replay
from vitas_ds.training.task import Task, count_steps


def is_trained(stage: str, weights: Path, run_dir: RunDir, ranks: Ranks) -> bool:
    """Return whether the stage has written its weights, and say so on rank 0."""
    if weights.exists() and ranks.is_main:
        print(f"{stage}: done already, {read_summary(run_dir).get(stage, {}).get('steps', '?')} steps")
    return weights.exists()


def print_estimate(task: Task, ranks: Ranks, spec: SubnetSpec, sides: int = 1) -> None:
    """Print the teacher, if there is one, and steps, disk space and memory of a training on rank 0.

    Args:
        task: The training.
        ranks: The ranks of the job.
        spec: The largest network of a step.
        sides: Networks of that size computed at the same time.
    """
    if not ranks.is_main:
        return
    if task.teacher:
        print(f"{task.stage}: {teacher_line(task.training.teacher)}", flush=True)
    params = sum(p.numel() for p in task.model.parameters())
    kept = sides * memory.activation_bytes(spec, task.config.engine.grad_checkpointing)
    needed = memory.estimate(task.config.engine, task.training, ranks.world_size, params, kept)
    host = f", {format_size(needed.host)} of host memory" if needed.host else ""
    print(
        f"{task.stage}: estimate: {count_steps(task)[1]:,} steps, {disk_line(task.training, params)}, "
        f"{format_size(needed.total)} of memory per rank without libraries{host}", flush=True,
    )  # fmt: skip


def teacher_line(teacher: Teacher) -> str:
    """Describe the teacher of a training."""
    model = "the network of supernet.init" if teacher.model == INIT else teacher.model
    weights = f" with {teacher.weights}" if str(teacher.model).startswith(TIMM) else ""
    return f"learns from {model}{weights}, {teacher.kind} labels with weight {teacher.weight:g}"


def disk_line(training: Training, params: int) -> str:
    """Return the disk space of a training: checkpoints (weights, two moments, averaged weights) and final weights."""
    checkpoint = FP32 * params * (4 if training.ema_decay else 3)
    text = f"{format_size(checkpoint)} on disk per checkpoint"
    if training.keep_every:
        return f"{text}, one of which stays every {training.keep_every:,} steps"
    most = training.keep + training.keep_best + 1  # one is written before an old one is removed
    return f"{format_size(most * checkpoint + FP32 * params)} on disk (up to {most} checkpoints)"


def last_checkpoint(folder: TrainingDir) -> Path:
    """Return the checkpoint that training ended with. All ranks must call this."""
    newest = checkpoint_files.newest(folder.checkpoints)
    assert newest is not None, "training ends with a checkpoint"
    return newest


def print_replay(task: Task, file: str, ranks: Ranks) -> None:
    """Compute the first step of a divergence record again; an empty ``file`` is the record of this run."""
    for line in replay(task, Path(file) if file else task.folder.divergence, ranks):
        print(line)

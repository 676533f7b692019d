"""Compute a recorded step with a non-finite gradient again, in one process, and print losses and gradients per unit.

A step is a function of weights, seed, step and rank, so the shares of the ranks can be computed one after another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitas_ds.data.loader import train_batches
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision
from vitas_ds.errors import UserError
from vitas_ds.training import checkpoint_files, nonfinite
from vitas_ds.training.checkpoint_reader import consolidate
from vitas_ds.training.task import Task, compute_gradients


def replay(task: Task, file: Path, ranks: Ranks) -> Iterator[str]:
    """Compute the first step of a record again, and yield the report line by line. No file is written.

    Raises:
        UserError: The record is missing or of another stage, its checkpoint was deleted, or the images have changed.
    """
    if ranks.world_size > 1:
        raise UserError("--replay: runs in one process, which computes the shares of all ranks; use no launcher")
    record = nonfinite.read_record(file)
    if record["stage"] != task.stage:
        raise UserError(f"{file}: a record of {record['stage']}, not of {task.stage}")
    entry = record["steps"][0]
    path = _find_checkpoint(task, file, entry["step"])
    task.model.load_state_dict(consolidate(path))
    task.model.to(ranks.device)
    yield f"step {entry['step']}, weights of {path}"
    for share in entry["ranks"]:
        as_rank = replace(ranks, rank=share["rank"], world_size=record["world_size"])
        loss = _compute_share(task, as_rank, entry["step"] - 1, share["images"])
        recorded = share["loss"] if share["finite"] else "not finite"
        yield f"rank {share['rank']}: loss {loss:.6g}, recorded {recorded}"
    yield from _gradient_lines(task.units, record["world_size"])


def _find_checkpoint(task: Task, file: Path, step: int) -> Path:
    """Return the checkpoint before the step. If training recovered, this is the newest one left."""
    for folder in (nonfinite.checkpoints_of(file), task.folder.checkpoints):
        for path in checkpoint_files.list_checkpoints(folder):
            if checkpoint_files.step_of(path) < step and checkpoint_files.verify(path) is None:
                return path
    raise UserError(f"{file}: no intact checkpoint from before step {step} is left")


def _compute_share(task: Task, as_rank: Ranks, step: int, expected_images: list[str]) -> float:
    """Accumulate the gradients of a rank, and return its loss."""
    config, training = task.config, task.training
    batch = next(train_batches(
        task.images, config.data, training.augment, config.space.image_size,
        training.batch_size // as_rank.world_size, config.run.seed, step, as_rank,
    ))  # fmt: skip
    if [task.images.file(i) for i in batch.ids.tolist()] != expected_images:
        raise UserError("data.train: this step has other images than in the record; were files added or removed?")

    def model(*args: Any) -> Any:
        with precision.autocast(config.engine.precision, as_rank.device):
            return task.model(*args)

    return float(compute_gradients(task, model, Tensor.backward, batch, step, as_rank.rank))


def _gradient_lines(units: dict[str, list[nn.Parameter]], ranks: int) -> Iterator[str]:
    """Yield the gradient norm of each unit, averaged over the ranks: non-finite ones first, then the largest."""
    norms = {}
    for unit, params in units.items():
        grads = [p.grad for p in params if p.grad is not None]
        if grads:
            norms[unit] = (
                float(nn.utils.get_total_norm(grads)) / ranks,
                max(float(p.detach().abs().max()) for p in params),
            )
    for unit in sorted(norms, key=lambda unit: (math.isfinite(norms[unit][0]), -norms[unit][0], unit)):
        norm, largest = norms[unit]
        yield f"{unit:24} gradient {norm:<12.6g} largest weight {largest:.6g}"

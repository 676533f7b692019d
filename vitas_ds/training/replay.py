"""A step of a training that diverged, computed again in one process: losses, and the gradient unit by unit.

A step is a function of weights, seed, step and rank, so that the ranks' shares can be computed one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitas_ds.config import Config
from vitas_ds.data.loader import train_batches
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine import precision
from vitas_ds.errors import UserError
from vitas_ds.training import checkpoint, nonfinite
from vitas_ds.training.trainer import Task, compute


def replay(task: Task, config: Config, file: Path, ranks: Ranks) -> Iterator[str]:
    """The first step of a record, line by line. No file is written.

    Raises:
        UserError: no such record, or of another stage; its weights are gone; the images are not the same.
    """
    if ranks.world_size > 1:
        raise UserError("--replay: one process computes the shares of all ranks; start it without a launcher")
    record = nonfinite.read(file)
    if record["stage"] != task.stage:
        raise UserError(f"{file}: a record of {record['stage']}, not of {task.stage}")
    entry = record["steps"][0]
    weights = _weights(task, file, entry["step"])
    task.model.load_state_dict(checkpoint.consolidate(weights))
    task.model.to(ranks.device)
    yield f"step {entry['step']}, weights of {weights}"
    for share in entry["ranks"]:
        as_rank = replace(ranks, rank=share["rank"], world_size=record["world_size"])
        loss = _share(task, config, as_rank, entry["step"] - 1, share)
        yield f"rank {share['rank']}: loss {loss:.6g}, then {share['loss'] if share['finite'] else 'not finite'}"
    yield from _gradients(task.units, record["world_size"])


def _weights(task: Task, file: Path, step: int) -> Path:
    """Those that the step was computed with; if the training went on, the newest good ones before it."""
    for folder in (file.with_suffix(""), task.folder.checkpoints):
        for path in checkpoint.found(folder):
            if checkpoint.step_of(path) < step and checkpoint.verify(path) is None:
                return path
    raise UserError(f"{file}: there is no whole checkpoint of before step {step} any more")


def _share(task: Task, config: Config, as_rank: Ranks, step: int, share: dict[str, Any]) -> float:
    """Add a rank's gradients; returns its loss."""
    training = task.training
    batch = next(train_batches(
        task.images, config.data, training.augment, config.space.image_size,
        training.batch_size // as_rank.world_size, config.run.seed, step, as_rank,
    ))  # fmt: skip
    if [task.images.file(i) for i in batch.ids.tolist()] != share["images"]:
        raise UserError("data.train: the images of this step are others than at the time; were files added or removed?")

    def model(*args: Any) -> Any:
        with precision.autocast(config.engine.precision, as_rank.device):
            return task.model(*args)

    return float(compute(task, config, model, Tensor.backward, batch, step, as_rank.rank))


def _gradients(units: dict[str, list[nn.Parameter]], ranks: int) -> Iterator[str]:
    """The norm of each unit's gradient, averaged over the ranks; what is not finite first, then the largest."""
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

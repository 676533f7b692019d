"""The training task of a stage, and the gradients of one step.

Everything random is a function of (seed, step, rank). Given the weights, a step can therefore be computed again at any
time, and a bitwise resume needs only weights and optimizer state.
"""
# B batch, C classes

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config, Training
from vitas_ds.data.mixing import mix
from vitas_ds.data.reader import Batch
from vitas_ds.data.sampler import steps_per_epoch
from vitas_ds.data.sources import ImageSet
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import TrainingDir

Losses = Callable[[Callable[..., Tensor], Tensor, Tensor, int], Iterator[Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """Measures the network during training. It must change neither the network nor the state of random numbers.

    Attributes:
        every: Steps between two evaluations. The last step is evaluated as well.
        run: ``run(engine)`` returns values for the metrics file. All ranks call it together. It raises ``Preempted``
            on all ranks to stop early.
        describe: Formats the values for the console.
        score: Name of the value by which checkpoints are compared, higher is better; "": by loss.
    """

    every: int
    run: Callable[[Engine], dict[str, float]]
    describe: Callable[[dict[str, float]], str]
    score: str = ""


@dataclass(frozen=True)
class Task:
    """Everything that differs between the training stages.

    Attributes:
        stage: Name of the stage.
        config: Configuration of the run.
        training: Section of ``config`` for this stage.
        folder: Paths of the stage.
        model: Network to train.
        units: Sampling units of the network, see ``Engine``.
        images: Training images.
        losses: ``losses(model, images, targets [B, C], step)`` yields the losses of a step. Each is backpropagated
            before the next one is computed; the step uses the gradient of their sum.
        units_used: ``units_used(step)`` returns the names of the units in the losses.
        metrics: ``metrics(step)`` returns further values for the metrics file.
        subnets: ``subnets(step)`` returns the networks of a step.
        init: Loads other initial weights than random ones into the network, and returns where they come from. Only a
            training that starts at step 0 calls it.
        teacher: Digest of the teacher, or "".
        teacher_macs: Multiply-accumulates of the teacher for an image; 0 without one, or if they are unknown.
        evaluation: What to measure during training.
        later: Computation of the later stages of the run, relative to this one; nan if unknown.
        lr_scales: Factor of the learning rate by name of the tensor; 1 for others.
    """

    stage: str
    config: Config
    training: Training
    folder: TrainingDir
    model: nn.Module
    units: dict[str, list[nn.Parameter]]
    images: ImageSet
    losses: Losses
    units_used: Callable[[int], set[str]]
    metrics: Callable[[int], dict[str, Any]] = lambda step: {}
    subnets: Callable[[int], list[SubnetSpec]] = lambda step: []
    init: Callable[[], str] | None = None
    teacher: str = ""
    teacher_macs: int = 0
    evaluation: Evaluation | None = None
    later: float = math.nan
    lr_scales: Mapping[str, float] = field(default_factory=dict)


def count_steps(task: Task) -> tuple[int, int]:
    """Return the optimizer steps per epoch and in total.

    Raises:
        UserError: The batch size exceeds the number of images.
    """
    training, images = task.training, len(task.images)
    per_epoch = steps_per_epoch(images, training.augment.aug_repeats, training.batch_size)
    if not per_epoch:
        raise UserError(f"batch_size: {training.batch_size} is more than the {images} training images")
    return per_epoch, per_epoch * training.epochs


def mixed_batch(task: Task, batch: Batch, step: int, rank: int) -> tuple[Tensor, Tensor]:
    """Return images [B, 3, H, W] and soft targets [B, C] after mixup, cutmix and label smoothing."""
    config = task.config
    return mix(batch.images, batch.labels, task.training.mixing, config.space.num_classes, config.run.seed, step, rank)


def compute_gradients(
    task: Task, model: Callable[..., Tensor], backward: Callable[[Tensor], Any], batch: Batch, step: int, rank: int
) -> Tensor:
    """Compute the loss of one rank in a step, and backpropagate it part by part.

    Args:
        task: The training task.
        model: Forward pass: the engine, or the network under autocast.
        backward: Called with each part of the loss.
        batch: Images of this rank.
        step: Global step, from 0.
        rank: Rank whose share of the step is computed.

    Returns:
        The loss, a scalar on the device: the caller decides when to wait for it.
    """
    torch.manual_seed(hash((task.config.run.seed, step, rank)) & (2**63 - 1))  # for drop path
    images, targets = mixed_batch(task, batch, step, rank)
    parts = task.training.grad_accum_steps
    total = torch.zeros((), device=images.device)
    for part_images, part_targets in zip(images.chunk(parts), targets.chunk(parts), strict=True):
        for loss in task.losses(model, part_images, part_targets, step):
            part = loss / parts
            backward(part)
            total += part.detach().float()
    return total

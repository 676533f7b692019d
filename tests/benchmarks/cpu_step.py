"""Count calls and waits of training steps with the real engine and trainer on the CPU, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.benchmarks.call_counter import CallCounter, WaitCounter
from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.data.reader import Batch
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.run_dir import TrainingDir
from vitas_ds.stages.train_supernet import step_losses
from vitas_ds.training.losses import cross_entropy
from vitas_ds.training.task import Task
from vitas_ds.training.train_state import TrainState
from vitas_ds.training.trainer import Trainer

BATCH = 1
WARMUP = 1  # the first step allocates
Counts = tuple[int, int]  # calls in Engine.step, waits in the whole step


def supernet_steps(rule: str, zero: str, specs: list[SubnetSpec]) -> list[Counts]:
    """Count a step of each subnet, in one training."""
    settings = _settings(zero)
    supernet = Supernet(SearchSpace(), rule, class_token_only=True)  # type: ignore[arg-type]
    current = specs[:1]

    def losses(model: Callable[..., Tensor], images: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        return step_losses(settings, model, current, images, targets)

    trainer = _trainer(
        settings, settings.supernet, supernet, supernet.units(), losses, lambda step: supernet.units_used(current[0])
    )
    counts = []
    for spec in (*specs[:1] * WARMUP, *specs):
        current[0] = spec
        counts.append(_count(trainer))
    return counts[WARMUP:]


def plain_steps(zero: str, specs: list[SubnetSpec]) -> list[Counts]:
    """Count a step of retraining each network."""
    counts = []
    for spec in specs:
        settings, model = _settings(zero), VisionTransformer(spec, class_token_only=True)

        def losses(net: Callable[..., Tensor], images: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
            yield cross_entropy(net(images)[None], targets, "loss_mean")

        units = {"all": list(model.parameters())}
        trainer = _trainer(settings, settings.retrain, model, units, losses, lambda step: {"all"})
        counts.append([_count(trainer) for _ in range(WARMUP + 1)][-1])
    return counts


def _settings(zero: str) -> config.Config:
    training = {"batch_size": BATCH, "lr": 1e-4, "warmup_epochs": 0}
    return config.Config(
        engine=config.Engine(zero=zero, precision="fp32"), supernet=training, retrain=training
    )  # fmt: skip


def _trainer(
    settings: config.Config, training: config.Training, model: nn.Module, units: dict[str, list[nn.Parameter]],
    losses: Any, units_used: Callable[[int], set[str]],
) -> Trainer:  # fmt: skip
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    ranks = comm.init("cpu")
    engine = Engine(model, units, settings.engine, training, ranks)
    folder = TrainingDir(Path("unused"))
    images: Any = range(1000 * BATCH)
    task = Task("train", settings, training, folder, model, units, images, losses, units_used)
    unused: Any = mock.MagicMock()
    return Trainer(task, ranks, engine, TrainState(), unused, unused)


def _count(trainer: Trainer) -> Counts:
    """Count one step. A synchronization of the accelerator is a wait, although a CPU has nothing to wait for."""
    import deepspeed

    space = trainer.task.config.space
    images = torch.randn(BATCH, 3, space.image_size, space.image_size)
    batch = Batch(images, torch.zeros(BATCH, dtype=torch.int64), torch.arange(BATCH))
    step, calls = trainer.engine.step, []
    synchronize = mock.Mock()

    def counted_step(*args: Any) -> Any:
        with CallCounter() as counter:
            result = step(*args)
        calls.append(counter.calls.total())
        return result

    with ExitStack() as stack:
        accelerator = type(deepspeed.accelerator.get_accelerator())
        stack.enter_context(mock.patch.object(accelerator, "synchronize", synchronize))
        stack.enter_context(mock.patch.object(trainer.engine, "step", counted_step))
        whole, waits = stack.enter_context(CallCounter()), stack.enter_context(WaitCounter())
        norm, loss = trainer._train_step(batch, 1e-4)
        trainer._update_state(batch, loss, norm)
    return calls[0], whole.waits + waits.transfers.total() + synchronize.call_count

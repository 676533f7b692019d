"""Stage train-supernet: one set of weights for every net of the space, one sampled net a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.data.sources import ImageSet, hold_out, read_folder, write_classes, write_list
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.run.run_dir import RunDir, read_summary, run_of, update_summary
from vitas_ds.run.start import find_run, open_run
from vitas_ds.training import checkpoint
from vitas_ds.training.losses import distill_loss, loss_of
from vitas_ds.training.replay import replay
from vitas_ds.training.sampling import Price, fit_identity_prob, nets_of_step
from vitas_ds.training.trainer import Task, train


def run(config: Config) -> None:
    """Train the supernet of ``config.space`` on the training images but those held out for the search."""
    ranks = comm.init(config.run.device, config.run.timeout)
    folder = find_run(config)
    if folder.supernet_weights.exists():
        if ranks.is_main:
            steps = read_summary(folder).get("train-supernet", {}).get("steps", "?")
            print(f"train-supernet: done already, {steps} steps")
        return
    images, held_out = _images(config)
    open_run(config, ranks.is_main, stage="train-supernet", world_size=ranks.world_size)
    if ranks.is_main:
        folder.supernet.path.mkdir(parents=True, exist_ok=True)
        write_classes(images.classes, folder.classes)
        if not checkpoint.found(folder.supernet.checkpoints):  # else theirs stays, until the training has gone on
            write_list(held_out.paths, folder.search_images)
    numbers = train(_task(config, folder, ranks, images), config, folder, ranks)
    if ranks.is_main:
        write_list(held_out.paths, folder.search_images)
    _finish(folder, ranks, numbers, ema=config.supernet.ema_decay > 0)


def again(config: Config, file: str) -> None:
    """Compute a step of a record of divergence again (the run's own if ``file`` is empty); prints what is seen."""
    ranks, folder = comm.init(config.run.device, config.run.timeout), run_of(config)
    task = _task(config, folder, ranks, _images(config)[0])
    for line in replay(task, config, Path(file) if file else folder.supernet.divergence, ranks):
        print(line)


def _images(config: Config) -> tuple[ImageSet, ImageSet]:
    """The images to train on, and those held out for the search."""
    everything = read_folder(config.data.train, config.data.exclude, config.space.num_classes)
    return hold_out(everything, config.data.search_per_class, config.run.seed)


def _task(config: Config, folder: RunDir, ranks: Ranks, images: ImageSet) -> Task:
    supernet = Supernet(
        config.space, config.supernet.sharing, config.supernet.private_attention, config.engine.grad_checkpointing,
        class_token_only=True,
    )  # fmt: skip
    init_weights(supernet, config.run.seed, config.supernet.init_std)
    nets = nets_of(config, identity_prob(config, folder, ranks))

    def losses(model: Callable[..., Tensor], images: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
        return step_losses(config, model, nets(step), images, targets)

    def used(step: int) -> set[str]:
        return set().union(*(supernet.units_used(net) for net in nets(step)))

    def facts(step: int) -> dict[str, Any]:
        net = nets(step)[0]
        return {"net_macs": spec_macs(net), "net_depth": net.depth, "net_embed_dim": net.embed_dim}

    return Task(
        "train-supernet", config.supernet, folder.supernet, supernet, supernet.units(), images,
        config.space.num_classes, losses, used, facts, nets,
    )  # fmt: skip


def nets_of(config: Config, prob: float | None) -> Callable[[int], list[SubnetSpec]]:
    """The nets of a step, as a function of the step; each position is skipped with probability ``prob``."""

    @lru_cache(maxsize=4)  # a step asks for them several times
    def nets(step: int) -> list[SubnetSpec]:
        return nets_of_step(config.space, config.supernet, config.run.seed, step, prob)

    return nets


def identity_prob(config: Config, folder: RunDir, ranks: Ranks) -> float | None:
    """The chance of a position to be skipped that the budget asks for; None: there is no budget, or no identity.

    The budget is ``supernet.throughput`` or ``supernet.macs``, else the search's: MACs first, then seconds.
    """
    supernet, search, space = config.supernet, config.search, config.space
    if not space.identity:
        return None
    macs = None if supernet.throughput else supernet.macs or search.macs
    if macs:
        return fit_identity_prob(space, *macs)
    slow, fast = supernet.throughput or (0.0, 0.0)
    seconds = (search.latency_batch_size / fast, search.latency_batch_size / slow) if fast else search.seconds
    if seconds is None or math.isinf(seconds[1]):  # nothing to aim at
        return None
    from vitas_ds.search.latency.calibration import calibrate  # half a second, which most starts need not wait for

    timing = calibrate(config, folder, folder.supernet_latency, ranks.device, {}, anywhere=True)
    if ranks.is_main:
        print(timing.describe())
    price = Price(timing.predictor, lambda value: f"{value:.4g} s a batch of {search.latency_batch_size}")
    return fit_identity_prob(space, *seconds, price)


def step_losses(
    config: Config, model: Callable[..., Tensor], nets: list[SubnetSpec], images: Tensor, targets: Tensor
) -> Iterator[Tensor]:
    """The loss of each net of a step, a share of 1 / nets each; with distillation, later nets learn from the first."""
    objective, teacher = config.supernet.objective, None
    for net in nets:
        logits = model(images, net)
        if teacher is None:
            loss = loss_of(logits, targets, objective)
            teacher = logits.detach() if config.supernet.distill else None
        else:
            loss = distill_loss(logits, teacher, objective)
        yield loss / len(nets)


def _finish(folder: RunDir, ranks: Ranks, numbers: dict[str, Any], ema: bool) -> None:
    """Consolidate the last checkpoint (its averaged weights, if there are), so that a search needs no engine."""
    newest = checkpoint.newest(folder.supernet.checkpoints)  # all ranks ask
    assert newest is not None, "training ends with a checkpoint"
    if ranks.is_main:
        checkpoint.write_consolidated(newest, folder.supernet_weights, ema=ema)
        update_summary(folder, "train-supernet", numbers)
        print(f"train-supernet: {numbers['steps']} steps, loss {numbers['loss']:.4f}, {folder.supernet_weights}")
    comm.barrier()

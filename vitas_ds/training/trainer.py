"""The training loop that both training stages share: batches, steps, checkpoints, progress.

Everything random is a function of (seed, step, rank), so that a resumed run needs weights and optimizer alone to go
on bit for bit. Start-up order (origin.py): the run's own checkpoint, else ``resume_from``, else ``init_weights``, else
scratch; a line says which it was.
"""
# B batch, C classes

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config, Training
from vitas_ds.data.loader import Batch, train_batches
from vitas_ds.data.mixing import mix
from vitas_ds.data.preview import grid
from vitas_ds.data.sampler import steps_per_epoch
from vitas_ds.data.sources import ImageSet, fingerprint
from vitas_ds.distributed import comm, preemption
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.watchdog import Watchdog
from vitas_ds.engine.engine import Engine
from vitas_ds.engine.optimizer import cosine_lr
from vitas_ds.errors import Preempted, UserError
from vitas_ds.run.run_dir import RunDir, TrainingDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import open_tracker
from vitas_ds.training import checkpoint, nonfinite, resume
from vitas_ds.training.train_state import Progress, progress_of, state_of

LOOK_EVERY = 10  # steps between agreements of the ranks to stop or to save by the clock, which cost a reduction
Losses = Callable[[Callable[..., Tensor], Tensor, Tensor, int], Iterator[Tensor]]


@dataclass(frozen=True)
class Task:
    """What a training stage gives the loop.

    ``losses(model, images, targets [B, C], step)`` yields the losses of a step one by one; each is sent backward
    before the next is computed, and the step learns from their sum. ``used(step)`` names the units that they use.
    ``facts(step)`` are further values of a progress record, ``nets(step)`` the nets that a step trains.
    """

    stage: str
    training: Training
    folder: TrainingDir
    model: nn.Module
    units: dict[str, list[nn.Parameter]]
    images: ImageSet
    num_classes: int
    losses: Losses
    used: Callable[[int], set[str]]
    facts: Callable[[int], dict[str, Any]] = lambda step: {}
    nets: Callable[[int], list[SubnetSpec]] = lambda step: []


def total_steps(training: Training, images: int) -> tuple[int, int]:
    """Optimizer steps of an epoch and of the whole training. Raises ``UserError`` if a batch exceeds the images."""
    per_epoch = steps_per_epoch(images, training.augment.aug_repeats, training.batch_size)
    if not per_epoch:
        raise UserError(f"batch_size: {training.batch_size} is more than the {images} training images")
    return per_epoch, per_epoch * training.epochs


def train(task: Task, config: Config, run: RunDir, ranks: Ranks) -> dict[str, Any]:
    """Train to the last epoch, from the newest good checkpoint on; returns the stage's headline numbers.

    Raises:
        Preempted: SIGTERM came; all is saved.
        RankLost: another rank died; its line is printed. (One that hangs ends this process, see watchdog.py.)
        UserError: gradients stay non-finite, or a checkpoint does not fit.
    """
    with preemption.listening(), Watchdog(run.life, task.stage, ranks, config.run.timeout) as watch:
        return _train(task, config, run, ranks, watch)


def _train(task: Task, config: Config, run: RunDir, ranks: Ranks, watch: Watchdog) -> dict[str, Any]:
    training = task.training
    per_epoch, total = total_steps(training, len(task.images))
    begin = resume.find(task.folder.checkpoints, training, task.stage.removeprefix("train-"))
    if begin.weights:
        resume.load_weights(task.model, begin.weights)
    engine = Engine(task.model, task.units, config.engine, training, ranks)
    saved = checkpoint.load(engine, begin.checkpoint) if begin.checkpoint else None
    files = fingerprint(task.images)
    progress = progress_of(saved, ranks, files) if saved else Progress(files=files)
    if progress.step >= total and not begin.own:
        raise UserError(f"{begin.checkpoint}: of step {progress.step}, and this training has {total}: nothing is left")
    with open_tracker(config, run, task.stage, ranks.is_main, total=total, start_step=progress.step) as tracker:
        tracker.say(f"{task.stage}: {begin.words(progress.step, total)}")
        batches = train_batches(
            task.images, config.data, training.augment, config.space.image_size,
            training.batch_size // ranks.world_size, config.run.seed, progress.step, ranks,
        )  # fmt: skip
        if ranks.is_main and not saved:
            batches = _pictured(batches, task, config, tracker)
        _loop(task, config, ranks, engine, tracker, progress, batches, per_epoch, total, watch)
        numbers = {"steps": total, "epochs": training.epochs, "loss": progress.loss, "seconds": round(progress.seconds)}
        if replaced := sum(comm.gather(progress.replaced)):
            numbers["bad_images"] = replaced
        tracker.summary(numbers)
        best = checkpoint.best(task.folder.checkpoints) if ranks.is_main and training.keep_best else None
        if best and checkpoint.step_of(best) < total:
            tracker.say(f"{task.stage}: the mean loss was lower at step {checkpoint.step_of(best)}; {best} is kept")
    return numbers


def _loop(
    task: Task, config: Config, ranks: Ranks, engine: Engine, tracker: Tracker, progress: Progress,
    batches: Iterator[Batch], per_epoch: int, total: int, watch: Watchdog,
) -> None:  # fmt: skip
    training, clock = task.training, time.monotonic
    last = last_saved = clock()
    while progress.step < total:
        watch.at(progress.step + 1, "waiting for data")
        with tracker.waiting():
            batch = next(batches)
        watch.at(progress.step + 1, "computing")
        lr = cosine_lr(training, progress.step, per_epoch)
        loss, norm = _step(task, config, ranks, engine, batch, progress.step, lr)
        progress.loss_sum += float(loss)
        progress.loss_steps += 1
        progress.replaced += batch.replaced
        progress.step += 1
        if math.isfinite(norm):
            progress.nonfinite = 0
            progress.learn(float(loss), training.save_every)
        elif engine.settling:
            progress.nonfinite = 0
        else:
            _skipped(task, ranks, engine, tracker, progress, batch, float(loss))
        if progress.step % training.log_every == 0 or progress.step == total:
            _record(task, ranks, tracker, progress, lr, norm)
        progress.seconds, last = progress.seconds + clock() - last, clock()
        stop, due = _agree(progress.step, preemption.asked(), clock() - last_saved > training.save_minutes * 60)
        due = (due or progress.step % training.save_every == 0) and not progress.nonfinite  # or good ones go for bad
        if stop or due or progress.step == total:
            watch.at(progress.step, "saving")
            _save(task, engine, progress)
            last_saved = clock()
        if stop and progress.step < total:
            raise Preempted(f"stopped after step {progress.step} of {total}, which is saved; start it again to go on")


def _save(task: Task, engine: Engine, progress: Progress) -> None:
    training, state = task.training, state_of(progress)
    loss = sum(state["mean"]) / len(state["mean"])
    checkpoint.save(
        engine, task.folder.checkpoints, progress.step, state, training.keep, training.keep_every, loss, training.keep_best
    )


def _pictured(batches: Iterator[Batch], task: Task, config: Config, tracker: Tracker) -> Iterator[Batch]:
    """The batches; of the first one, once it was trained on, a picture of what the network sees is left beside the
    checkpoints.
    """
    batch = next(batches)
    mixed = mix(batch.images, batch.labels, task.training.mixing, task.num_classes, config.run.seed, 0, 0)
    images, labels = (values[:32].clone() for values in mixed)
    yield batch
    path = task.folder.images
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(images, labels, task.images.classes, path, config.data)
    tracker.image("images", path)
    yield from batches


def _step(
    task: Task, config: Config, ranks: Ranks, engine: Engine, batch: Batch, step: int, lr: float
) -> tuple[Tensor, float]:
    """One optimizer step: this rank's loss (a tensor, so that nothing waits for it) and the gradient's norm."""
    loss = compute(task, config, engine, engine.backward, batch, step, ranks.rank)
    return loss, engine.step(task.used(step), lr)


def compute(
    task: Task, config: Config, model: Callable[..., Tensor], backward: Callable[[Tensor], Any], batch: Batch,
    step: int, rank: int,
) -> Tensor:  # fmt: skip
    """A rank's loss in a step, sent backward part by part; a function of weights, seed, step and rank alone."""
    seed = config.run.seed
    torch.manual_seed(hash((seed, step, rank)) & (2**63 - 1))  # of drop path
    images, targets = mix(batch.images, batch.labels, task.training.mixing, task.num_classes, seed, step, rank)
    parts = task.training.grad_accum_steps
    total = torch.zeros((), device=images.device)
    for some, wanted in zip(images.chunk(parts), targets.chunk(parts), strict=True):
        for loss in task.losses(model, some, wanted, step):
            backward(loss / parts)
            total += loss.detach().float() / parts
    return total


def _skipped(
    task: Task, ranks: Ranks, engine: Engine, tracker: Tracker, progress: Progress, batch: Batch, loss: float
) -> None:
    """A step whose gradient was not finite, which all ranks know by its norm: write it down; stop after too many."""
    progress.nonfinite += 1
    nth, most, file = progress.nonfinite, task.training.max_nonfinite, task.folder.divergence
    words = nonfinite.record(
        file, ranks, task.stage, progress.step, nth, task.nets(progress.step - 1), loss, batch.ids, task.images
    )
    if nth < most:
        tracker.say(f"{task.stage}: step skipped, its gradient is not finite ({nth} of {most} in a row): {words}")
        return
    # nothing has moved since before the first of them
    checkpoint.save(engine, file.with_suffix(""), progress.step - nth, {}, keep=1)
    raise UserError(
        f"gradient not finite in {nth} steps in a row, the last {words}; lower the learning rate, or clip; "
        f"good checkpoints stay in {task.folder.checkpoints}; {task.stage} --replay computes the first of them again ({file})"
    )


def _record(task: Task, ranks: Ranks, tracker: Tracker, progress: Progress, lr: float, norm: float) -> None:
    """Write a progress record of the steps since the last one."""
    sums = torch.tensor([progress.loss_sum, float(progress.replaced)], dtype=torch.float64, device=ranks.device)
    loss, replaced = comm.all_sum(sums).tolist()
    progress.loss = loss / progress.loss_steps / ranks.world_size
    values: dict[str, Any] = {"loss": progress.loss, "lr": lr, "grad_norm": norm}
    if replaced:
        values["bad_images"] = int(replaced)
    values |= task.facts(progress.step - 1)
    tracker.log(progress.step, values, images=progress.loss_steps * task.training.batch_size)
    progress.loss_sum, progress.loss_steps = 0.0, 0


def _agree(step: int, stop: bool, due: bool) -> tuple[bool, bool]:
    """Whether any rank was asked to stop, and whether rank 0's clock says to save; asked every few steps only."""
    if step % LOOK_EVERY:
        return False, False
    votes = comm.gather((stop, due))
    return any(vote[0] for vote in votes), votes[0][1]

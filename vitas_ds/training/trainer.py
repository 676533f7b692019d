"""The training loop that both training stages share: batches, steps, metrics, checkpoints.

``resume`` chooses where training starts. Everything random is a function of (seed, step, rank), so a resumed run is
bitwise equal to an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from vitas_ds.data.loader import train_batches
from vitas_ds.data.preview import save_grid
from vitas_ds.data.reader import Batch
from vitas_ds.data.sources import fingerprint
from vitas_ds.distributed import comm, preemption
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.watchdog import Watchdog
from vitas_ds.engine.engine import Engine, Result
from vitas_ds.engine.peak import device_peak, training_flops
from vitas_ds.engine.profile import StepProfiler
from vitas_ds.errors import Preempted, UserError
from vitas_ds.run.files import replacing, write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import open_tracker
from vitas_ds.training import checkpoint, checkpoint_files, nonfinite, resume
from vitas_ds.training.checkpoint import Saver
from vitas_ds.training.resume import Origin
from vitas_ds.training.schedule import cosine_lr
from vitas_ds.training.task import Task, compute_gradients, count_steps, mixed_batch
from vitas_ds.training.train_state import TrainState

VOTE_EVERY = 10  # steps between votes of the ranks on stopping and saving, which cost a collective
PREVIEW_IMAGES = 32


def train(task: Task, run: RunDir, ranks: Ranks) -> dict[str, Any]:
    """Train from the newest intact checkpoint to the last epoch.

    Returns:
        Summary of the stage.

    Raises:
        Preempted: SIGTERM was received; the state is saved.
        SaveFailed: A checkpoint could not be written.
        RankLost: Another rank failed, and the error line is printed. (If a rank hangs, the watchdog ends the process.)
        UserError: Too many non-finite gradients, or a checkpoint that does not fit.
    """
    with preemption.catch_signals(), Watchdog(run.life, task.stage, ranks, task.config.run.timeout) as watchdog:
        _, total = count_steps(task)
        engine, state, origin = _start(task, ranks)
        with open_tracker(
            task.config, run, task.stage, ranks.is_main, total=total, start_step=state.step, later=task.later
        ) as tracker:
            tracker.print(f"{task.stage}: {origin.describe(state.step, total)}")
            trainer = Trainer(task, ranks, engine, state, tracker, watchdog)
            if origin.own and not trainer.evaluate(again=False):  # the last start was stopped in this evaluation
                raise Preempted(f"stopped in the evaluation of step {state.step}; run it again to resume")
            with trainer.saver:
                trainer.run(preview=ranks.is_main and state.step == 0)
            return trainer.summarize()


def _start(task: Task, ranks: Ranks) -> tuple[Engine, TrainState, Origin]:
    """Create the engine and the loop state, from a checkpoint if there is one."""
    (_, total), section = count_steps(task), task.stage.removeprefix("train-")
    comm.from_main(lambda: checkpoint_files.clean_up(task.folder.checkpoints))
    origin = resume.find_origin(task.folder.checkpoints, task.training, section)
    if origin.weights:
        resume.load_weights(task.model, origin.weights)
    elif not origin.checkpoint and task.init:
        origin = replace(origin, init=task.init())
    engine = Engine(task.model, task.units, task.config.engine, task.training, ranks, task.lr_scales)
    saved = checkpoint.load(engine, origin.checkpoint) if origin.checkpoint else None
    files = fingerprint(task.images)
    state = TrainState.from_dict(saved, ranks, files) if saved else TrainState(files=files, teacher=task.teacher)
    if not origin.own:
        state.forget_accuracy()
    if state.teacher != task.teacher:
        raise UserError(
            f"{section}.teacher.model: not the teacher of the training that wrote {origin.checkpoint} (its weights, "
            "architecture or normalization differ); restore it, or use another run.name"
        )
    if state.step >= total and not origin.own:
        raise UserError(
            f"{origin.checkpoint}: saved at step {state.step}, but this training has only {total} steps; "
            "increase epochs, or resume from an older checkpoint"
        )
    return engine, state, origin


class Trainer:
    """Trains a task. All ranks run it together.

    Args:
        task: The training task.
        ranks: The ranks of the job.
        engine: Engine with the weights to start from.
        state: State of the loop; updated in place.
        tracker: Console and metrics.
        watchdog: Gets the current phase, to name it if this rank hangs.
    """

    def __init__(
        self, task: Task, ranks: Ranks, engine: Engine, state: TrainState, tracker: Tracker, watchdog: Watchdog
    ) -> None:
        self.task, self.ranks, self.engine, self.state = task, ranks, engine, state
        self.tracker, self.watchdog = tracker, watchdog
        self.steps_per_epoch, self.total_steps = count_steps(task)
        self.profiler = StepProfiler(
            task.config.engine.profile, task.folder.trace, self.total_steps, ranks.device.type == "cuda",
            ranks.is_main, state.step,
        )  # fmt: skip
        self.peak, self.flops = device_peak(ranks.device), 0.0  # of this rank, since the last metrics record
        self.logged = state.step  # step of the last metrics record of this start

    def run(self, preview: bool = False) -> None:
        """Train until the last step is done and saved.

        Args:
            preview: Write a picture of the first batch.

        Raises:
            Preempted: A rank received SIGTERM; the state is saved.
            SaveFailed: A rank could not write a checkpoint.
            UserError: Too many non-finite gradients in a row.
        """
        state, training = self.state, self.task.training
        batches = self._batches(preview)
        if state.is_best:  # measured after the resumed checkpoint was saved
            self._save()
        last_time = last_save = time.monotonic()
        while state.step < self.total_steps:
            self.profiler.before(state.step + 1)
            batch = self._next_batch(batches)
            lr = cosine_lr(training, state.step, self.steps_per_epoch)
            norm, loss = self._train_step(batch, lr)
            self._update_state(batch, loss, norm)
            self._record_profile()
            done = state.step == self.total_steps
            if state.step % training.log_every == 0 or done:
                self._log(lr, norm)
            complete = self.evaluate()
            self.saver.poll()
            now = time.monotonic()
            state.seconds, last_time = state.seconds + now - last_time, now
            stop, save = self._vote(preemption.requested(), now - last_save > training.save_minutes * 60)
            # no save in a row of skipped steps: pruning would replace good checkpoints by diverged ones
            save = save or state.step % training.save_every == 0 or (training.keep_best and state.is_best)
            save = save and not state.nonfinite
            if stop or save or done or not complete:
                self._save()
                last_save = time.monotonic()
            if (stop and not done) or not complete:
                self.saver.wait()
                raise Preempted(f"stopped after step {state.step} of {self.total_steps}; run it again to resume")
        self.saver.wait()

    def _record_profile(self) -> None:
        """Write the operators after the last profiled step."""
        operators = self.profiler.after(self.state.step)
        if operators is not None:
            write_json(self.task.folder.operators, operators)
            names = ", ".join(f"{row['name']} {row['share']:.0%}" for row in operators)
            self.tracker.print(f"{self.task.stage}: wrote {self.task.folder.trace}; most expensive operators: {names}")

    def _batches(self, preview: bool) -> Iterator[Batch]:
        config, training = self.task.config, self.task.training
        batches = train_batches(
            self.task.images, config.data, training.augment, config.space.image_size,
            training.batch_size // self.ranks.world_size, config.run.seed, self.state.step, self.ranks,
        )  # fmt: skip
        return self._with_preview(batches) if preview else batches

    def _with_preview(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Write a picture of the network's input in step 0, after that step: the first step is not delayed."""
        batch = next(batches)
        images, labels = (values[:PREVIEW_IMAGES].clone() for values in mixed_batch(self.task, batch, 0, 0))
        yield batch
        path = self.task.folder.images
        with replacing(path) as aside:
            save_grid(images, labels, self.task.images.classes, aside, self.task.config.data)
        self.tracker.image("images", path)
        yield from batches

    def _next_batch(self, batches: Iterator[Batch]) -> Batch:
        self.watchdog.at(self.state.step + 1, "waiting for data")
        with self.tracker.waiting():
            batch = next(batches)
        self.watchdog.at(self.state.step + 1, "computing")
        return batch

    def _train_step(self, batch: Batch, lr: float) -> Result:
        task, engine, step = self.task, self.engine, self.state.step
        if self.peak:
            sides = len(getattr(task.model, "sides", "1"))
            self.flops += training_flops(task.subnets(step), sides, len(batch.labels), task.teacher_macs)
        loss = compute_gradients(task, engine, engine.backward, batch, step, self.ranks.rank)
        return engine.step(task.units_used(step), lr, loss)

    def _update_state(self, batch: Batch, loss: float, norm: float) -> None:
        state = self.state
        state.loss_sum += loss
        state.loss_steps += 1
        state.replaced += batch.replaced
        state.step += 1
        if math.isfinite(norm):
            state.nonfinite = 0
            state.update_mean(loss, self.task.training.save_every)
        elif self.engine.loss_scale_adapting:
            state.nonfinite = 0
        else:
            self._record_skipped_step(batch, loss)

    def _record_skipped_step(self, batch: Batch, loss: float) -> None:
        """Record a step that all ranks skipped because of its norm; stop after too many in a row."""
        task, state = self.task, self.state
        state.nonfinite += 1
        count, limit, file = state.nonfinite, task.training.max_nonfinite, task.folder.divergence
        description = nonfinite.record_step(task, self.ranks, state.step, count, loss, batch.ids)
        if count < limit:
            self.tracker.print(
                f"{task.stage}: step skipped, its gradient is not finite ({count} of {limit} in a row): {description}"
            )
            return
        self.saver.wait()
        # the weights have not changed since before the first skipped step
        folder = nonfinite.checkpoints_of(file)
        saved = checkpoint.save(self.engine, folder, state.step - count, {})
        comm.from_main(lambda: checkpoint_files.keep_only(saved))
        raise UserError(
            f"gradient not finite in {count} steps in a row, the last {description}; lower the learning rate, or clip "
            f"the gradient; {task.stage} --replay repeats the first of these steps ({file}); good checkpoints are kept"
        )

    def _log(self, lr: float, norm: float) -> None:
        """Write a metrics record of the steps since the last one."""
        state, ranks = self.state, self.ranks
        sums = torch.tensor([state.loss_sum, float(state.replaced)], dtype=torch.float64, device=ranks.device)
        loss_sum, replaced = comm.all_sum(sums).tolist()
        state.loss = loss_sum / state.loss_steps / ranks.world_size
        values: dict[str, Any] = {"loss": state.loss, "lr": lr, "grad_norm": norm}
        if replaced:
            values["bad_images"] = int(replaced)
        values |= self.task.metrics(state.step - 1)
        ideal = self.flops / self.peak if self.peak else 0.0
        self.tracker.log(
            state.step, values, images=(state.step - self.logged) * self.task.training.batch_size, ideal=ideal,
            shown={} if state.accuracy is None else {"top1": state.accuracy},
        )  # fmt: skip
        state.loss_sum, state.loss_steps, self.flops, self.logged = 0.0, 0, 0.0, state.step

    def evaluate(self, again: bool = True) -> bool:
        """Evaluate the network if it is due at this step. All ranks must call this.

        Args:
            again: Evaluate a step even if it has a record.

        Returns:
            Whether nothing is left to do: False if the evaluation was stopped by a stop request.
        """
        evaluation, step, stage = self.task.evaluation, self.state.step, self.task.stage
        if evaluation is None or (step % evaluation.every and step < self.total_steps):
            return True
        if not again and comm.from_main(lambda: self.tracker.has_evaluation(step)):
            return True
        self.watchdog.at(step, "evaluating")
        try:
            with self.tracker.paused():
                values = evaluation.run(self.engine)
        except Preempted:
            return False
        if evaluation.score:
            self.state.accuracy, self.state.accuracy_step = values[evaluation.score], step
        self.tracker.evaluation(step, values)
        self.tracker.print(f"{stage}: step {step}: {evaluation.describe(values)}")
        return True

    def _vote(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Agree on whether any rank must stop, and whether rank 0's clock asks to save. Only every few steps."""
        if self.state.step % VOTE_EVERY:
            return False, False
        votes = comm.gather((stop, save))
        return any(vote[0] for vote in votes), votes[0][1]

    @cached_property
    def saver(self) -> Saver:
        """Writes the checkpoints of this training."""
        config, training, directory = self.task.config, self.task.training, self.task.folder.checkpoints
        return Saver(
            self.engine, directory, config.checkpoint.asynchronous, config.run.timeout,
            after=lambda step: checkpoint_files.prune(
                directory, training.keep, training.keep_every, training.keep_best, step
            ),
            alive=lambda: self.watchdog.at(self.state.step, "saving"),
            deepspeed=config.checkpoint.format == "deepspeed",
        )  # fmt: skip

    def _save(self) -> None:
        self.watchdog.at(self.state.step, "saving")
        if self.state.is_best:
            self.state.best_accuracy = self.state.accuracy
        saved = self.state.to_dict()
        self.saver.save(self.state.step, saved, loss=sum(saved["mean"]) / len(saved["mean"]))

    def summarize(self) -> dict[str, Any]:
        """Return the summary of the stage, and print the best checkpoint if it is not the last."""
        task, total = self.task, self.total_steps
        summary = {
            "steps": total,
            "epochs": task.training.epochs,
            "loss": self.state.loss,
            "seconds": round(self.state.seconds),
        }
        if replaced := sum(comm.gather(self.state.replaced)):
            summary["bad_images"] = replaced
        if self.state.accuracy is not None:
            summary["held_out_top1"] = self.state.accuracy
        self.tracker.summary(summary)
        keep_best = self.ranks.is_main and task.training.keep_best
        best = checkpoint_files.best(task.folder.checkpoints) if keep_best else None
        if best and checkpoint_files.step_of(best) < total:
            step = checkpoint_files.step_of(best)
            accuracy = self.state.best_accuracy
            what = "the mean loss was lower" if accuracy is None else f"top-1 was {accuracy:.1%}"
            self.tracker.print(f"{task.stage}: {what} at step {step}; {best} is kept")
        return summary

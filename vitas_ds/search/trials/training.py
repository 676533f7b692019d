"""Train one finalist on a group of ranks, from its saved state to a step, and score it on the search images."""
# n images, B batch, C classes

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.data.loader import train_batches
from vitas_ds.data.sources import ImageSet
from vitas_ds.distributed import preemption, watchdog
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.groups import Group
from vitas_ds.engine.precision import autocast
from vitas_ds.models.extract import subnet_state_dict
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.search.scoring.candidate import Score, score_from_counts
from vitas_ds.search.trials.inputs import ScoringInputs
from vitas_ds.search.trials.store import Outcome, Progress, Store, name_of
from vitas_ds.training.losses import cross_entropy, loss_with_teacher
from vitas_ds.training.plain import Labelled, Losses, PlainTrainer

VOTE_EVERY = 10  # steps between votes of a group on stopping and saving

Report = Callable[[int, float], None]
"""Called with the finished steps of the candidate, and its last training loss."""


@dataclass(frozen=True)
class Trial:
    """One candidate, trained by one group.

    Attributes:
        config: Configuration of the run.
        inputs: Supernet, training images and search images.
        store: Files of the finalists.
        ranks: Position of this process.
        group: The ranks that train this candidate.
        spec: The candidate.
        label: Its name in messages.
    """

    config: Config
    inputs: ScoringInputs
    store: Store
    ranks: Ranks
    group: Group
    spec: SubnetSpec
    label: str

    @property
    def _name(self) -> str:
        return name_of(self.spec)

    def run(self, until: int, report: Report) -> bool:
        """Train to step ``until``, then score and write the result.

        Returns:
            Whether it is done. False if the ranks are asked to stop; the state is saved.
        """
        watchdog.at(f"{self.label}: loading")
        trainer, progress = self._open(until)
        start, last_save, saved_step = time.monotonic() - progress.seconds, time.monotonic(), trainer.step
        batches = self._batches(trainer.step)
        while trainer.step < until:
            overdue = time.monotonic() - last_save > 60 * self.config.retrain.save_minutes
            stop, save = self._vote(overdue)
            if (stop or save) and trainer.step > saved_step:
                self._save(trainer, replace(progress, seconds=time.monotonic() - start))
                last_save, saved_step = time.monotonic(), trainer.step
            if stop:
                return False
            trainer.run(batches, min(until, trainer.step + VOTE_EVERY))
            report(trainer.step, trainer.loss.item())
        batches.close()
        progress = replace(progress, seconds=time.monotonic() - start)
        score, loss = self._score(self._scored_net(trainer))
        if trainer.step > saved_step:
            self._save(trainer, progress)
        if self.group.is_main:
            assert score.stderr is not None
            seconds = round(progress.seconds, 3)
            outcome = Outcome(until, score.value, score.stderr, loss, seconds, trainer.skipped, progress.side)
            self.store.add(self._name, outcome)
        return True

    def _open(self, until: int) -> tuple[PlainTrainer, Progress]:
        """Return the trainer, from the saved state if there is one up to ``until``."""
        cfg, training = self.config.search.finalists, self.config.retrain
        saved = self._agree(0 < self.store.saved_step(self._name) <= until)
        net = VisionTransformer(
            self.spec, training.drop_path_rate, self.config.engine.grad_checkpointing, class_token_only=True
        ).to(self.ranks.device)
        progress = Progress()
        if not saved:
            progress = self._init(net)
        # with fewer ranks than retrain, a step has as many more micro-batches: if memory suffices there, it does here
        parts = training.grad_accum_steps * self.group.count
        trainer = PlainTrainer(
            net, training, cfg.steps, self._losses(net), self.spec.num_classes, self.config.run.seed,
            self.config.engine.precision, self.group, parts,
        )  # fmt: skip
        return trainer, self.store.load(self._name, trainer) if saved else progress

    def _init(self, net: VisionTransformer) -> Progress:
        """Initialize the weights as ``search.finalists.init`` says."""
        if self.config.search.finalists.init == "scratch":
            init_weights(net, self.config.run.seed, self.config.retrain.init_std)
            return Progress()
        supernet = self.inputs.supernet
        states = {side: subnet_state_dict(supernet, self.spec, side) for side in supernet.sides}
        if len(states) > 1:  # of equally good ones the first, which is the left one
            side = max(states, key=lambda side: self._score(self._with_weights(states[side]))[0].value)
        else:
            side = supernet.sides[0]
        net.load_state_dict({name: value.detach() for name, value in states[side].items()})
        return Progress(side=side)

    def _losses(self, net: nn.Module) -> Losses:
        teacher, settings = self.inputs.teacher, self.config.retrain.teacher

        def losses(images: Tensor, targets: Tensor, step: int) -> Iterator[Tensor]:
            if teacher is None:
                yield cross_entropy(net(images)[None], targets, "loss_mean")
            else:
                expected = teacher(images)
                yield loss_with_teacher(net(images)[None], targets, expected, "loss_mean", settings)

        return losses

    def _batches(self, step: int) -> Generator[Labelled]:
        """Yield this rank's part of the batches from ``step`` on: a function of (seed, step), not of the candidate."""
        config, training, group = self.config, self.config.retrain, self.group
        ranks = replace(self.ranks, rank=group.rank, world_size=group.size)
        batches = train_batches(
            training_images(self.inputs), config.data, training.augment, config.space.image_size,
            training.batch_size // group.size, config.run.seed, step, ranks,
        )  # fmt: skip
        watchdog.at(f"{self.label}: waiting for data")
        for batch in batches:
            step += 1
            watchdog.at(f"{self.label}: computing step {step}")
            yield batch.images, batch.labels
            watchdog.at(f"{self.label}: waiting for data of step {step + 1}")

    def _vote(self, save: bool) -> tuple[bool, bool]:
        """Agree within the group on whether to stop, and whether to save. Only the clock of its first rank counts."""
        if preemption.requested():
            self.store.ask_to_stop()
        return self._agree(self.store.stop.exists()), self._agree(save)

    def _agree(self, value: bool) -> bool:
        """Return the value of the first rank of the group: ranks of other nodes may not see a new file at once."""
        own = torch.tensor(int(value and self.group.is_main), device=self.ranks.device)
        return bool(self.group.sum(own))

    def _save(self, trainer: PlainTrainer, progress: Progress) -> None:
        watchdog.at(f"{self.label}: saving")
        if self.group.is_main:
            self.store.save(self._name, trainer, progress)

    def _scored_net(self, trainer: PlainTrainer) -> VisionTransformer:
        """Return the network with the averaged weights, or without averages, the trained one."""
        return self._with_weights(trainer.averages or trainer.model.state_dict())

    def _with_weights(self, state: dict[str, Tensor]) -> VisionTransformer:
        net = VisionTransformer(self.spec, class_token_only=True).to(self.ranks.device)
        net.load_state_dict({name: value.detach() for name, value in state.items()})
        return net.eval()

    @torch.inference_mode()
    def _score(self, net: nn.Module) -> tuple[Score, float]:
        """Return accuracy and cross entropy on all search images. The ranks of the group share the batches."""
        pixels, labels = self.inputs.pixels, torch.from_numpy(self.inputs.images.labels)
        parts, device = range(0, len(labels), self.config.data.eval_batch_size), self.ranks.device
        sums = torch.zeros(2, len(parts), dtype=torch.float64, device=device)  # of each batch: correct ones, loss
        for i in range(self.group.rank, len(parts), self.group.size):
            watchdog.at(f"{self.label}: scoring")
            part = slice(parts[i], parts[i] + parts.step)
            images, targets = self.inputs.prepare(pixels[part].to(device)), labels[part].to(device)
            with autocast(self.config.engine.precision, device):
                logits = net(images).float()
            hits = (logits.argmax(-1) == targets) & logits.isfinite().all(-1)  # argmax of NaN could be a label
            sums[:, i] = torch.stack([hits.sum(), F.cross_entropy(logits, targets, reduction="sum")])
        hits_of_parts, losses = self.group.sum(sums).cpu()  # summed in the same order for any number of ranks
        points = int(hits_of_parts.sum())
        return score_from_counts(points, points, len(labels), len(labels)), losses.sum().item() / len(labels)


def training_images(inputs: ScoringInputs) -> ImageSet:
    """Return the training images, which a search with finalists must have."""
    assert inputs.training is not None, "finalists need the training images"
    return inputs.training

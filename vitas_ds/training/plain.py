"""Train a network without DeepSpeed: short trainings that compare candidates.

The schedule, the mixing and the random numbers are those of a training stage. AdamW leaves parameters without gradient
unchanged, so a supernet can be trained as well.

A group of ranks can share each batch. Mixing and drop path then compute the same as on one rank, so the result does not
depend on the number of ranks, except for rounding.
"""
# B batch, C classes

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds.config import Training
from vitas_ds.data.mixing import mix
from vitas_ds.distributed.groups import Group
from vitas_ds.engine.precision import LossScale, autocast
from vitas_ds.models.flat import tensor_places
from vitas_ds.models.layers import part_of_batch
from vitas_ds.training.schedule import cosine_lr

Labelled = tuple[Tensor, Tensor]
Losses = Callable[[Tensor, Tensor, int], Iterator[Tensor]]


class PlainTrainer:
    """Trains a network with AdamW, one step at a time.

    Args:
        model: The network, on its device.
        training: Hyperparameters. The warm-up keeps its share of the training; ``epochs`` has no other effect.
        steps: Optimizer steps of the whole schedule.
        losses: ``losses(images, targets [B, C], step)`` yields losses. Each is backpropagated before the next one is
            computed.
        num_classes: Number of classes C.
        seed: Seed of mixup, CutMix and drop path.
        precision: ``engine.precision``.
        group: Ranks that train the network together.
        parts: Micro-batches of each rank and step.

    Attributes:
        step: Finished steps.
        loss: Sum of the losses of the last step, a scalar tensor, averaged over the group.
        skipped: Steps without an update because the gradient was not finite.
        averages: EMA of the tensors by name, if ``training.ema_decay`` is set.
    """

    def __init__(
        self, model: nn.Module, training: Training, steps: int, losses: Losses, num_classes: int, seed: int,
        precision: str = "fp32", group: Group | None = None, parts: int = 1,
    ) -> None:  # fmt: skip
        self.group, self.parts, self.scale, self.skipped = group or Group(), parts, LossScale(precision), 0
        self.model, self.training, self.steps, self.losses = model, training, steps, losses
        self.num_classes, self.seed, self.precision = num_classes, seed, precision
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        places = tensor_places(model).values()
        self.matrices = [place for place in places if len(place.shape) > 1 and place.parameter.requires_grad]
        self.adamw = torch.optim.AdamW(
            self.parameters, lr=training.lr, betas=training.betas, weight_decay=0.0, fused=True
        )
        self.averages = {name: value.clone() for name, value in model.state_dict().items()} if self._decay else {}
        self.step, self.loss = 0, torch.zeros(())

    @property
    def _decay(self) -> float:
        return self.training.ema_decay

    @property
    def _device(self) -> torch.device:
        return self.parameters[0].device

    def run(self, batches: Iterable[Labelled], until: int | None = None) -> None:
        """Train to step ``until`` (None: to the end).

        Args:
            batches: Yields images [B, 3, H, W] and labels [B], from step ``self.step`` on: this rank's part of each
                batch.
            until: Step to stop at.
        """
        self.model.train()
        stop = self.steps if until is None else until
        for images, labels in batches if self.step < stop else ():
            self._train_step(images, labels)
            if self.step == stop:
                break

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        images, targets = self._mixed(images, labels)
        self.loss = torch.zeros((), device=self._device)
        B = len(images)
        first, batch = self.group.rank * B, self.group.size * B
        for part, part_targets in zip(images.chunk(self.parts), targets.chunk(self.parts), strict=True):
            torch.manual_seed(hash((self.seed, self.step)) & (2**63 - 1))  # for drop path
            with part_of_batch(first, batch):
                for loss in self._forward(self.losses(part, part_targets, self.step)):
                    share = loss * (len(part) / B)
                    (share * self.scale.value).backward()
                    self.loss += share.detach().float()
            first += len(part)
        self._update(cosine_lr(self.training, self.step, self.steps / self.training.epochs))
        self.step += 1

    def _mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix as on one rank: each image with the previous one, whose predecessor may be on another rank."""
        B, mixing = len(images), self.training.mixing
        if self.group.size > 1 and (mixing.mixup or mixing.cutmix):
            images, labels = (torch.cat([self.group.last_of_previous(x)[None], x]) for x in (images, labels))
        images, targets = mix(images, labels, mixing, self.num_classes, self.seed, self.step, 0)
        return images[-B:], targets[-B:]

    def _forward(self, losses: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield the losses, each computed under autocast."""
        while True:
            with autocast(self.precision, self._device):
                loss = next(losses, None)
            if loss is None:
                return
            yield loss

    @torch.no_grad()
    def _update(self, lr: float) -> None:
        if not self._finish_gradients():
            self.skipped += 1
            self.adamw.zero_grad()
            return
        # AdamW decays whole parameters; a flat one holds matrices and vectors
        used = [place.view() for place in self.matrices if place.parameter.grad is not None]
        if used:
            torch._foreach_mul_(used, 1 - lr * self.training.weight_decay)
        self.adamw.param_groups[0]["lr"] = lr
        self.adamw.step()
        self.adamw.zero_grad()
        if self.averages:
            state = self.model.state_dict()
            torch._foreach_lerp_(list(self.averages.values()), [state[name] for name in self.averages], 1 - self._decay)

    def _finish_gradients(self) -> bool:
        """Average the gradients over the group and clip them. Return whether they are finite."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        self.group.mean([*grads, self.loss])
        if self.scale.value != 1:
            torch._foreach_mul_(grads, 1 / self.scale.value)
        norm = nn.utils.get_total_norm(grads)
        finite = math.isfinite(norm)
        self.scale.update(finite)
        if finite and self.training.clip_grad:
            nn.utils.clip_grads_with_norm_(self.parameters, self.training.clip_grad, norm)
        return finite

    def state_dict(self) -> dict[str, Any]:
        """Return everything that ``load_state_dict`` needs to continue bit for bit."""
        return {
            "model": self.model.state_dict(), "adamw": self.adamw.state_dict(), "averages": self.averages,
            "step": self.step, "loss": self.loss, "scale": self.scale.state(), "skipped": self.skipped,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.model.load_state_dict(state["model"])
        self.adamw.load_state_dict(state["adamw"])
        self.averages = {name: value.to(self._device) for name, value in state["averages"].items()}
        self.step, self.loss = state["step"], state["loss"].to(self._device)
        if "scale" in state:  # not in states of older versions
            self.scale.restore(state["scale"])
            self.skipped = state["skipped"]

"""Train a network in one process, without DeepSpeed: short trainings that compare candidates.

The schedule, the mixing and the random numbers are those of a training stage. AdamW leaves parameters without gradient
unchanged, so a supernet can be trained as well.
"""
# B batch, C classes

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds.config import Training
from vitas_ds.data.mixing import mix
from vitas_ds.engine.precision import autocast
from vitas_ds.models.flat import tensor_places
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

    Attributes:
        step: Finished steps.
        loss: Sum of the losses of the last step, a scalar tensor.
        averages: EMA of the tensors by name, if ``training.ema_decay`` is set.
    """

    def __init__(
        self, model: nn.Module, training: Training, steps: int, losses: Losses, num_classes: int, seed: int,
        precision: str = "fp32",
    ) -> None:  # fmt: skip
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
            batches: Yields images [B, 3, H, W] and labels [B], from step ``self.step`` on.
            until: Step to stop at.
        """
        self.model.train()
        stop = self.steps if until is None else until
        for images, labels in batches if self.step < stop else ():
            self._train_step(images, labels)
            if self.step == stop:
                break

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        torch.manual_seed(hash((self.seed, self.step)) & (2**63 - 1))  # for drop path
        images, targets = mix(images, labels, self.training.mixing, self.num_classes, self.seed, self.step, 0)
        self.loss = torch.zeros((), device=self._device)
        for loss in self._forward(self.losses(images, targets, self.step)):
            loss.backward()
            self.loss += loss.detach().float()
        self._update(cosine_lr(self.training, self.step, self.steps / self.training.epochs))
        self.step += 1

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
        if self.training.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.training.clip_grad)
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

    def state_dict(self) -> dict[str, Any]:
        """Return everything that ``load_state_dict`` needs to continue bit for bit."""
        return {
            "model": self.model.state_dict(), "adamw": self.adamw.state_dict(), "averages": self.averages,
            "step": self.step, "loss": self.loss,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.model.load_state_dict(state["model"])
        self.adamw.load_state_dict(state["adamw"])
        self.averages, self.step, self.loss = state["averages"], state["step"], state["loss"]

"""AdamW with a clock for each sampling unit, and the learning rate over time.

A supernet step uses some of the weights. Plain ZeRO hands an optimizer zero (or stale) gradients for the others, and
weight decay and momentum would move them. Here a unit that a step did not use keeps weights, moments and step count,
which is what torch.optim.AdamW does with parameters whose gradient is None.

ZeRO flattens a parameter group and gives each rank a part of it, so the optimizer is told which pieces of its tensors
belong to which parameter and unit. There are two groups only (with and without decay): ZeRO's cost per step grows with
the number of groups, not with the number of units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from vitas_ds import config

EPS = 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """``length`` elements of a parameter from ``source`` on, which lie from ``offset`` on in a tensor of this rank."""

    name: str
    unit: str
    source: int
    offset: int
    length: int


class UnitAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) that steps the sampling units in ``active`` and leaves the others bit for bit alone.

    ``owned`` maps each tensor that the optimizer may be given to its pieces; the engine fills it in once ZeRO has laid
    out the tensors. ``steps`` counts the steps of each unit, ``moments[tensor]`` has its two moments.
    """

    def __init__(self, groups: list[dict[str, Any]], units: Iterable[str], training: config.Training) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas = training.betas
        self.steps = dict.fromkeys(units, 0)
        self.active: frozenset[str] = frozenset()
        self.owned: dict[Tensor, list[Piece]] = {}
        self._views: dict[Tensor, list[tuple[str, slice, list[Tensor]]]] = {}

    def own(self, owned: dict[Tensor, list[Piece]]) -> None:
        """Take the layout of this rank's tensors, and make their moments."""
        self.owned = owned
        for tensor, pieces in owned.items():
            self.state[tensor] = {moment: torch.zeros_like(tensor) for moment in MOMENTS}
            flat = [tensor.detach().view(-1), *(self.state[tensor][moment].view(-1) for moment in MOMENTS)]
            self._views[tensor] = [(unit, span, [t[span] for t in flat]) for unit, span in _spans(pieces)]

    def set_lr(self, lr: float) -> None:
        """Learning rate of the steps that follow."""
        for group in self.param_groups:
            group["lr"] = lr

    def begin(self, units: Iterable[str]) -> None:
        """Name the units that the step updates; their clocks go on by one. ``undo`` takes it back."""
        self.active = frozenset(units)
        for unit in self.active:
            self.steps[unit] += 1

    def undo(self) -> None:
        """The step begun did not happen (its gradient was not finite)."""
        for unit in self.active:
            self.steps[unit] -= 1
        self.active = frozenset()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the active units in ``param_groups``. ZeRO calls it once a group, with that group alone in place."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    self._update(tensor, group)

    def _update(self, tensor: Tensor, group: dict[str, Any]) -> None:
        chosen = [view for view in self._views.get(tensor, ()) if view[0] in self.active]
        if not chosen:
            return
        grad = tensor.grad.view(-1)  # type: ignore[union-attr]
        params, first, second = ([views[k] for _, _, views in chosen] for k in range(3))
        # adamw adds one itself, and wants a count a tensor on the tensor's device
        counts = torch.tensor([self.steps[unit] - 1.0 for unit, _, _ in chosen], device=tensor.device)
        adamw(
            params, [grad[span] for _, span, _ in chosen], first, second, [], list(counts.unbind()),
            fused=True, foreach=False, amsgrad=False, maximize=False, beta1=self.betas[0], beta2=self.betas[1],
            lr=group["lr"], weight_decay=group["weight_decay"], eps=EPS,
        )  # fmt: skip


def _spans(pieces: Sequence[Piece]) -> list[tuple[str, slice]]:
    """Neighbouring pieces of one unit as one span: fewer tensors for the kernel."""
    spans: list[tuple[str, slice]] = []
    for piece in pieces:
        end = piece.offset + piece.length
        if spans and spans[-1][0] == piece.unit and spans[-1][1].stop == piece.offset:
            spans[-1] = (piece.unit, slice(spans[-1][1].start, end))
        else:
            spans.append((piece.unit, slice(piece.offset, end)))
    return spans


def decay_groups(units: dict[str, list[nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups in the order of the units: with decay, and (one-dimensional parameters) without."""
    params = [p for unit in units.values() for p in unit]
    matrices, vectors = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def cosine_lr(training: config.Training, step: int, steps_per_epoch: int) -> float:
    """Learning rate of global step ``step`` (from 0): linear warm-up from 0, then half a cosine to ``min_lr``."""
    total, warmup = training.epochs * steps_per_epoch, training.warmup_epochs * steps_per_epoch
    if step < warmup:
        return training.lr * step / warmup
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    return training.min_lr + (training.lr - training.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

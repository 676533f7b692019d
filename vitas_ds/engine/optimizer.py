"""AdamW with a separate step count for each sampling unit.

A supernet step uses only part of the weights. Plain ZeRO gives the optimizer zero or stale gradients for the others,
and weight decay and momentum would still move them. Here, a unit that a step does not use keeps its weights, moments
and step count, as torch.optim.AdamW does with parameters whose gradient is None.

ZeRO flattens each parameter group and gives every rank a part of it. ``Piece`` records which parameter and unit each
range of these flat tensors belongs to. There are only two parameter groups (with and without weight decay), because
the cost of a ZeRO step grows with the number of groups, but not with the number of units.
"""

from __future__ import annotations

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
    """A range of a parameter, and its place in a tensor that this rank owns.

    Attributes:
        name: Name of the parameter.
        unit: Sampling unit of the parameter.
        source: First element in the flattened parameter.
        offset: First element in the flattened tensor of this rank.
        length: Number of elements.
    """

    name: str
    unit: str
    source: int
    offset: int
    length: int


class UnitAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) that updates only the units in ``active``. All others stay bitwise unchanged.

    Attributes:
        steps: Number of steps of each unit.
        active: Units of the current step.
        owned: Pieces of each tensor of this rank. Empty until the engine calls ``set_layout``.
    """

    def __init__(self, groups: list[dict[str, Any]], units: Iterable[str], training: config.Training) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas = training.betas
        self.steps = dict.fromkeys(units, 0)
        self.active: frozenset[str] = frozenset()
        self.owned: dict[Tensor, list[Piece]] = {}
        self._views: dict[Tensor, list[tuple[str, slice, list[Tensor]]]] = {}

    def set_layout(self, owned: dict[Tensor, list[Piece]]) -> None:
        """Set the layout of this rank's tensors and allocate their moments."""
        self.owned = owned
        for tensor, pieces in owned.items():
            self.state[tensor] = {moment: torch.zeros_like(tensor) for moment in MOMENTS}
            flat = [tensor.detach().view(-1), *(self.state[tensor][moment].view(-1) for moment in MOMENTS)]
            self._views[tensor] = [(unit, span, [t[span] for t in flat]) for unit, span in _merge_neighbors(pieces)]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of all groups."""
        for group in self.param_groups:
            group["lr"] = lr

    def start_step(self, units: Iterable[str]) -> None:
        """Set the units of the next update and increment their step counts."""
        self.active = frozenset(units)
        for unit in self.active:
            self.steps[unit] += 1

    def revert_step(self) -> None:
        """Revert ``start_step``: the gradient was not finite, and nothing was updated."""
        for unit in self.active:
            self.steps[unit] -= 1
        self.active = frozenset()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the active units in ``param_groups``. ZeRO calls this once per group, with only that group set."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    self._update(tensor, group)

    def _update(self, tensor: Tensor, group: dict[str, Any]) -> None:
        active = [view for view in self._views.get(tensor, ()) if view[0] in self.active]
        if not active:
            return
        grad = tensor.grad.view(-1)  # type: ignore[union-attr]
        params, exp_avgs, exp_avg_sqs = ([views[k] for _, _, views in active] for k in range(3))
        # adamw() increments the counts itself. It needs one per tensor, on the tensor's device.
        counts = torch.tensor([self.steps[unit] - 1.0 for unit, _, _ in active], device=tensor.device)
        adamw(
            params, [grad[span] for _, span, _ in active], exp_avgs, exp_avg_sqs, [], list(counts.unbind()),
            fused=True, foreach=False, amsgrad=False, maximize=False, beta1=self.betas[0], beta2=self.betas[1],
            lr=group["lr"], weight_decay=group["weight_decay"], eps=EPS,
        )  # fmt: skip


def _merge_neighbors(pieces: Sequence[Piece]) -> list[tuple[str, slice]]:
    """Merge adjacent pieces of one unit: fewer tensors for the fused kernel."""
    spans: list[tuple[str, slice]] = []
    for piece in pieces:
        end = piece.offset + piece.length
        if spans and spans[-1][0] == piece.unit and spans[-1][1].stop == piece.offset:
            spans[-1] = (piece.unit, slice(spans[-1][1].start, end))
        else:
            spans.append((piece.unit, slice(piece.offset, end)))
    return spans


def decay_groups(units: dict[str, list[nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups in the order of the units: one with weight decay, one (vectors) without."""
    params = [p for unit in units.values() for p in unit]
    matrices, vectors = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]

"""AdamW with a separate step count for each sampling unit.

A supernet step uses only part of the weights. Plain ZeRO gives the optimizer zero or stale gradients for the others,
and weight decay and momentum would still move them. Here, a unit unused in a step keeps its weights, moments and
step count, as torch.optim.AdamW does with parameters whose gradient is None.

A parameter can hold many named tensors (``models.flat``), and ZeRO flattens all parameters and gives every rank a part.
``Piece`` records which named tensor and unit each range of a rank's tensors belongs to. There is one parameter group,
because the cost of a ZeRO step grows with the number of groups. Whether a range has weight decay depends on the shape
of its tensor, not on the group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitas_ds import config
from vitas_ds.models.flat import Place

EPS = 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """A range of a named tensor, and its place in a tensor that this rank owns.

    Attributes:
        name: Name of the tensor.
        unit: Sampling unit of the tensor.
        place: Place of the tensor in the network.
        source: First element in the flattened named tensor.
        offset: First element in the flattened tensor of this rank.
        length: Number of elements.
        lr_scale: Factor of the learning rate.
    """

    name: str
    unit: str
    place: Place
    source: int
    offset: int
    length: int
    lr_scale: float = 1.0

    @property
    def decay(self) -> bool:
        """Whether the tensor has weight decay: vectors (biases, norms) have none."""
        return len(self.place.shape) > 1


@dataclass
class Span:
    """Neighboring pieces with the same unit, decay and learning rate: one tensor for the fused kernel.

    Attributes:
        unit: Sampling unit.
        decay: Whether the span has weight decay.
        offset: First element in the flattened tensor of this rank.
        holder: Tensor whose ``grad`` contains the gradient.
        start: First element in the flattened gradient.
        length: Number of elements.
        lr_scale: Factor of the learning rate.
        views: Weights and moments, set when the span is complete.
    """

    unit: str
    decay: bool
    offset: int
    holder: Tensor
    start: int
    length: int
    lr_scale: float = 1.0
    views: Sequence[Tensor] = ()

    @property
    def kind(self) -> tuple[bool, float]:
        """Weight decay and factor of the learning rate, which are equal in a call of the kernel."""
        return self.decay, self.lr_scale

    def extend(self, other: Span) -> bool:
        """Append a span if it continues this one."""
        follows = other.offset == self.offset + self.length and other.start == self.start + self.length
        alike = other.kind == self.kind and other.unit == self.unit and other.holder is self.holder
        if follows and alike:
            self.length += other.length
        return follows and alike

    def gradient(self) -> Tensor:
        """Return the gradient, which must exist."""
        return self.holder.grad.view(-1).narrow(0, self.start, self.length)  # type: ignore[union-attr]


class UnitAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) that updates only the units in ``active``. All others stay bitwise unchanged.

    Attributes:
        steps: Number of steps of each unit.
        active: Units of the current step.
        owned: Pieces of each tensor of this rank. Empty until the engine calls ``set_layout``.
    """

    def __init__(self, params: Iterable[nn.Parameter], units: Iterable[str], training: config.Training) -> None:
        super().__init__(params, {"lr": 0.0})
        self.betas, self.weight_decay = training.betas, training.weight_decay
        self.steps = dict.fromkeys(units, 0)
        self.active: frozenset[str] = frozenset()
        self.owned: dict[Tensor, list[Piece]] = {}
        self._spans: dict[Tensor, list[Span]] = {}

    def set_layout(self, owned: dict[Tensor, list[Piece]], whole_gradients: bool) -> None:
        """Set the layout of this rank's tensors and allocate their moments and the step counts.

        Args:
            owned: Pieces of each tensor.
            whole_gradients: Whether the gradients are in the parameters of the network, not in the owned tensors.
        """
        self.owned = owned
        for tensor, pieces in owned.items():
            self.state[tensor] = {moment: torch.zeros_like(tensor) for moment in MOMENTS}
            flat = [tensor.detach().view(-1), *(self.state[tensor][moment].view(-1) for moment in MOMENTS)]
            self._spans[tensor] = _merge_neighbors(tensor, pieces, whole_gradients)
            for span in self._spans[tensor]:
                span.views = [t.narrow(0, span.offset, span.length) for t in flat]
        # with weight decay first
        self._kinds = sorted({span.kind for spans in self._spans.values() for span in spans}, reverse=True)
        device = next(iter(owned)).device
        # pinned, so that the copy to the device does not wait; the array writes to the same memory
        self._host_counts = torch.zeros(len(self.steps), pin_memory=device.type == "cuda")
        self._host_array = self._host_counts.numpy()
        self._counts = torch.zeros(len(self.steps), device=device)
        self._count_of = dict(zip(self.steps, self._counts.unbind(), strict=True))

    def set_lr(self, lr: float) -> None:
        """Set the learning rate."""
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

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the active units in ``param_groups``, for ZeRO. Stage 3 calls this once per part of the group."""
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Update the active units. Unlike ``step``, no profiler hook surrounds this."""
        # The engine reads the norm of every gradient before this, so the copy of the last step has finished.
        self._host_array[:] = list(self.steps.values())
        self._counts.copy_(self._host_counts, non_blocking=True)
        for group in self.param_groups:
            spans = [
                span
                for tensor in group["params"]
                for span in self._spans.get(tensor, ())
                if span.unit in self.active and span.holder.grad is not None
            ]
            for decay, lr_scale in self._kinds:
                alike = [span for span in spans if span.kind == (decay, lr_scale)]
                self._update(alike, group["lr"] * lr_scale, self.weight_decay if decay else 0.0)

    def _update(self, spans: list[Span], lr: float, weight_decay: float) -> None:
        if not spans:
            return
        params, exp_avgs, exp_avg_sqs = ([span.views[k] for span in spans] for k in range(3))
        # torch.optim.adamw.adamw() would increment the counts in a further call. Here, the spans of a unit share one.
        torch._fused_adamw_(
            params, [span.gradient() for span in spans], exp_avgs, exp_avg_sqs, [],
            [self._count_of[span.unit] for span in spans], lr=lr, beta1=self.betas[0], beta2=self.betas[1],
            weight_decay=weight_decay, eps=EPS, amsgrad=False, maximize=False,
        )  # fmt: skip


def _merge_neighbors(owner: Tensor, pieces: Iterable[Piece], whole_gradients: bool) -> list[Span]:
    """Merge adjacent pieces with the same unit and decay: fewer tensors for the fused kernel."""
    spans: list[Span] = []
    for piece in pieces:
        holder = piece.place.parameter if whole_gradients else owner
        start = piece.place.offset + piece.source if whole_gradients else piece.offset
        span = Span(piece.unit, piece.decay, piece.offset, holder, start, piece.length, piece.lr_scale)
        if not spans or not spans[-1].extend(span):
            spans.append(span)
    return spans


def whole_pieces(
    places: Mapping[str, Place], units: Mapping[str, list[nn.Parameter]], lr_scales: Mapping[str, float] | None = None
) -> dict[Tensor, list[Piece]]:
    """Return the pieces of each parameter of a network: the named tensors in it.

    Args:
        places: Places of all tensors.
        units: Parameters of each sampling unit. They must cover the network exactly.
        lr_scales: Factor of the learning rate by name of the tensor; 1 for others.
    """
    scales = lr_scales or {}
    listed = [(p, unit) for unit, params in units.items() for p in params]
    unit_of: dict[Tensor, str] = dict(listed)
    assert len(listed) == len(unit_of), "a parameter is in two sampling units"
    assert set(unit_of) == {place.parameter for place in places.values()}, (
        "the sampling units are not the network's parameters"
    )
    whole: dict[Tensor, list[Piece]] = {p: [] for p in unit_of}
    for name, place in sorted(places.items(), key=lambda item: item[1].offset):
        whole[place.parameter].append(
            Piece(name, unit_of[place.parameter], place, 0, place.offset, place.numel, scales.get(name, 1.0))
        )
    for tensor, pieces in whole.items():
        assert sum(piece.length for piece in pieces) == tensor.numel(), (
            f"{pieces[0].name}: tensors do not fill their parameter"
        )
    return whole

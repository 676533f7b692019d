"""Slices of shared weights: which part a side uses, and a linear layer on it that writes each gradient once."""
# S sides, B batch, M rows of a matrix

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.models.channels import Runs
from vitas_ds.models.matmul import by_onednn, product

AllRuns = Sequence[Runs | None]  # of each side; None: all channels


def take(weight: Tensor, *runs: Runs | None) -> Tensor:
    """The runs of each dimension (None: all of it): a view where each is one run, else a concatenation."""
    for dim, parts in enumerate(runs):
        if parts is None:
            continue
        pieces = [weight.narrow(dim, run.start, run.stop - run.start) for run in parts]
        weight = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    return weight


def put(full: Tensor, part: Tensor, *runs: Runs | None) -> None:
    """Add a part to where ``take`` took it from."""
    while runs and runs[-1] is None:
        runs = runs[:-1]
    if not runs:
        full += part
        return
    dim, start = len(runs) - 1, 0
    for run in cast(Runs, runs[-1]):
        size = run.stop - run.start
        put(full.narrow(dim, run.start, size), part.narrow(dim, start, size), *runs[:-1])
        start += size


def sliced_linear(x: Tensor, out: AllRuns, in_: AllRuns, *params: Tensor, gelu: bool = False) -> Tensor:
    """Slices of some linear layers, side by side, on one input: [S * B, ..., in] -> [S * B, ..., out * layers].

    Args:
        out, in_: for each side, the channels in use, of all layers alike.
        params: the layers' weights, then their biases.
        gelu: on GELU of the input, of which the backward pass keeps the input alone: less memory.
    """
    return cast(Tensor, _SlicedLinear.apply(x, out, in_, gelu, *params))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, bit for bit what ``sliced_linear`` computes on the same weights: [..., in] -> [..., out]."""
    if bias is not None and by_onednn(x) and not torch.is_autocast_enabled(x.device.type):
        return sliced_linear(x, (None,), (None,), weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear`` with a bias, by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(input, self.weight, self.bias)


class _SlicedLinear(torch.autograd.Function):
    """Computes what autograd would, but writes a parameter's gradient once.

    Autograd pads the gradient of each slice with zeros to the parameter's size and adds these up. The parameters are
    saved, not their slices, so that ZeRO 3 may take them away until the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: AllRuns, in_: AllRuns, gelu: bool, *params: Tensor) -> Tensor:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        ctx.save_for_backward(x, *params)
        ctx.slices, ctx.gelu = (out, in_), gelu
        sides = []
        for x_side, rows, columns in zip(_sides(F.gelu(x) if gelu else x, in_), out, in_, strict=True):
            weight, bias = _joint(params, x.dtype, rows, columns)
            sides.append((x_side, weight.mT, bias))
        return _products(sides, x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *params = ctx.saved_tensors
        out, in_ = ctx.slices
        grads, count = [torch.zeros_like(p) for p in params], len(params) // 2
        inner: list[tuple[Tensor, Tensor, None]] = []
        for x_side, g, rows, columns in zip(_sides(x, in_), _sides(grad, in_), out, in_, strict=True):
            if ctx.needs_input_grad[0]:  # pixels need none
                inner.append((g, _joint(params, g.dtype, rows, columns)[0], None))
            weight = _weight_gradient(g, F.gelu(x_side) if ctx.gelu else x_side)
            for full, part in zip(grads[:count], weight.chunk(count), strict=True):
                put(full, part, rows, columns)
            for full, part in zip(grads[count:], g.sum(0).chunk(count), strict=True):
                put(full, part, rows)
        dx = _products(inner, x.shape, gradient=True) if inner else None
        if dx is not None and ctx.gelu:
            torch.ops.aten.gelu_backward.grad_input(dx, x, grad_input=dx)
        return dx, None, None, None, *grads


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """[out, in] of gradients [M, out] and inputs [M, in].

    The wider factor goes second: that product is faster, and turning its result costs little.
    """
    if grad.shape[1] <= x.shape[1]:
        return product(grad.mT, x, gradient=True)
    return product(x.mT, grad, gradient=True).mT


def _products(
    products: Sequence[tuple[Tensor, Tensor, Tensor | None]], shape: torch.Size, gradient: bool = False
) -> Tensor:
    """``a @ b + bias`` of each side, one after the other: [S * B, ..., N] where ``shape`` is [S * B, ..., any]."""
    if len(products) == 1:
        return product(*products[0], gradient=gradient).view(*shape[:-1], -1)
    y = products[0][0].new_empty(*shape[:-1], products[0][1].shape[1])
    for y_side, (a, b, bias) in zip(_sides(y, products), products, strict=True):
        product(a, b, bias, out=y_side, gradient=gradient)
    return y


def _sides(x: Tensor, sides: Sequence[object]) -> tuple[Tensor, ...]:
    """Views [B * ..., channels] of each side."""
    return x.flatten(0, -2).chunk(len(sides))


def _joint(params: Sequence[Tensor], dtype: torch.dtype, rows: Runs | None, columns: Runs | None) -> list[Tensor]:
    """Weight and bias of a side: the slices of all layers, one below the other."""
    count, joint = len(params) // 2, []
    for group, runs in ((params[:count], (rows, columns)), (params[count:], (rows,))):
        pieces = [take(p, *runs).to(dtype) for p in group]
        joint.append(pieces[0].contiguous() if count == 1 else torch.cat(pieces))
    return joint

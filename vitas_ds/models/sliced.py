"""Linear layers on slices of shared weights, with a backward pass that writes each gradient once."""
# S sides, B batch, M = B * ... rows of a matrix, in input channels, out output channels

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.models.channels import Slices
from vitas_ds.models.matmul import product, uses_onednn

SideSlices = Sequence[Slices | None]  # one per side; None: all channels


def take_slices(weight: Tensor, *slices: Slices | None) -> Tensor:
    """Return slices of each dimension (None: all of it). The result is a view if each dimension has one slice."""
    for dim, parts in enumerate(slices):
        if parts is None:
            continue
        pieces = [weight.narrow(dim, part.start, part.stop - part.start) for part in parts]
        weight = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)
    return weight


def add_to_slices(full: Tensor, values: Tensor, *slices: Slices | None) -> None:
    """Add ``values`` to ``full`` in place, at the slices that ``take_slices`` returns."""
    while slices and slices[-1] is None:
        slices = slices[:-1]
    if not slices:
        full += values
        return
    dim, start = len(slices) - 1, 0
    for part in cast(Slices, slices[-1]):
        size = part.stop - part.start
        add_to_slices(full.narrow(dim, part.start, size), values.narrow(dim, start, size), *slices[:-1])
        start += size


def sliced_linear(x: Tensor, out: SideSlices, in_: SideSlices, *params: Tensor, gelu: bool = False) -> Tensor:
    """Apply slices of one or more linear layers to one input: [S * B, ..., in] -> [S * B, ..., out * layers].

    Args:
        x: The input.
        out: Output channels of each side, equal for all layers.
        in_: Input channels of each side, equal for all layers.
        params: Weights of all layers, then their biases.
        gelu: Apply GELU to the input first. To save memory, only the input of GELU is kept for the backward pass.
    """
    return cast(Tensor, _SlicedLinear.apply(x, out, in_, gelu, *params))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``F.linear``, bitwise equal to ``sliced_linear`` on the same weights: [..., in] -> [..., out]."""
    if bias is not None and uses_onednn(x) and not torch.is_autocast_enabled(x.device.type):
        return sliced_linear(x, (None,), (None,), weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear`` with a bias, computed by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(input, self.weight, self.bias)


class _SlicedLinear(torch.autograd.Function):
    """Linear layers on slices whose backward pass writes the gradient of each parameter once.

    Autograd would pad the gradient of each slice with zeros to the full size and add the results. The forward pass
    saves the parameters, not their slices: ZeRO 3 can then release them until the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: SideSlices, in_: SideSlices, gelu: bool, *params: Tensor) -> Tensor:
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *params = ctx.saved_tensors
        out, in_ = ctx.slices
        grads, count = [torch.zeros_like(p) for p in params], len(params) // 2
        inner: list[tuple[Tensor, Tensor, None]] = []
        for x_side, g, rows, columns in zip(_sides(x, in_), _sides(grad, in_), out, in_, strict=True):
            if ctx.needs_input_grad[0]:  # false for pixels
                inner.append((g, _joint(params, g.dtype, rows, columns)[0], None))
            weight = _weight_gradient(g, F.gelu(x_side) if ctx.gelu else x_side)
            for full, part in zip(grads[:count], weight.chunk(count), strict=True):
                add_to_slices(full, part, rows, columns)
            for full, part in zip(grads[count:], g.sum(0).chunk(count), strict=True):
                add_to_slices(full, part, rows)
        dx = _products(inner, x.shape, gradient=True) if inner else None
        if dx is not None and ctx.gelu:
            torch.ops.aten.gelu_backward.grad_input(dx, x, grad_input=dx)
        return dx, None, None, None, *grads


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Compute the weight gradient [out, in] from output gradients [M, out] and inputs [M, in].

    The wider factor is the second one: this product is faster, and the transpose of its result is cheap.
    """
    if grad.shape[1] <= x.shape[1]:
        return product(grad.mT, x, gradient=True)
    return product(x.mT, grad, gradient=True).mT


def _products(
    products: Sequence[tuple[Tensor, Tensor, Tensor | None]], shape: torch.Size, gradient: bool = False
) -> Tensor:
    """Compute ``a @ b + bias`` of each side into one tensor [S * B, ..., out]; ``shape`` is [S * B, ..., any]."""
    if len(products) == 1:
        return product(*products[0], gradient=gradient).view(*shape[:-1], -1)
    y = products[0][0].new_empty(*shape[:-1], products[0][1].shape[1])
    for y_side, (a, b, bias) in zip(_sides(y, products), products, strict=True):
        product(a, b, bias, out=y_side, gradient=gradient)
    return y


def _sides(x: Tensor, sides: Sequence[object]) -> tuple[Tensor, ...]:
    """Return a view [M, channels] of each side."""
    return x.flatten(0, -2).chunk(len(sides))


def _joint(params: Sequence[Tensor], dtype: torch.dtype, rows: Slices | None, columns: Slices | None) -> list[Tensor]:
    """Return weight and bias of a side: the slices of all layers, concatenated along the output channels."""
    count, joint = len(params) // 2, []
    for group, slices in ((params[:count], (rows, columns)), (params[count:], (rows,))):
        pieces = [take_slices(p, *slices).to(dtype) for p in group]
        joint.append(pieces[0].contiguous() if count == 1 else torch.cat(pieces))
    return joint

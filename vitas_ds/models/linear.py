"""Linear layers and the MLP on packed tensors: all sides in one call, with a backward pass without surplus operators.

Compiled and exported networks use the plain operators of torch.
"""
# S sides, M = B * N rows of a side, in input channels, out output channels

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from vitas_ds.models.matmul import product


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the layer of each side: x [S, ..., in], weight [S, out, in], bias [S, out] -> [S, ..., out]."""
    if torch.compiler.is_compiling():
        return _plain_linear(x, weight, bias)
    return cast(Tensor, _Linear.apply(x, weight, bias))


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Apply two linear layers with GELU in between: [S, ..., in] -> [S, ..., out].

    To save memory, the backward pass computes GELU again.
    """
    if torch.compiler.is_compiling():
        return _plain_linear(F.gelu(_plain_linear(x, weight1, bias1)), weight2, bias2)
    return cast(Tensor, _Mlp.apply(x, weight1, bias1, weight2, bias2))


def _plain_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if len(weight) == 1:  # a network without sides: the usual operator of torch.export and ONNX
        return F.linear(x, weight[0], bias[0])
    return torch.baddbmm(bias[:, None], x.flatten(1, -2), weight.mT).view(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = _input_gradient(grad, weight) if ctx.needs_input_grad[0] else None  # false for pixels
        return dx, *_weight_gradients(grad, x)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden = _linear(x, weight1, bias1)
        ctx.save_for_backward(x, weight1, weight2, hidden)
        return _linear(F.gelu(hidden), weight2, bias2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, weight2, hidden = ctx.saved_tensors
        activation = F.gelu(hidden)
        second = _weight_gradients(grad, activation)
        inner = _input_gradient(grad, weight2, out=activation)
        torch.ops.aten.gelu_backward.grad_input(inner, hidden, grad_input=inner)
        return _input_gradient(inner, weight1), *_weight_gradients(inner, x), *second


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the layer of each side; see ``linear``."""
    rows = x.flatten(1, -2)
    one = len(weight) == 1  # the kernel of a single product adds the bias
    y = product(rows[0], weight[0].mT, bias[0]) if one else torch.baddbmm(bias[:, None], rows, weight.mT)
    return y.view(*x.shape[:-1], -1)


def _input_gradient(grad: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """[S, ..., out] -> [S, ..., in]; the memory of ``out`` may be used for the result."""
    rows = grad.flatten(1, -2)
    out = None if out is None else out.flatten(1, -2)
    if len(weight) == 1:
        dx = product(rows[0], weight[0], out=None if out is None else out[0], gradient=True)
    else:
        dx = torch.bmm(rows, weight, out=out)
    return dx.view(*grad.shape[:-1], -1)


def _weight_gradients(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias from output gradients [S, ..., out] and inputs [S, ..., in]."""
    grads, rows = grad.flatten(1, -2), x.flatten(1, -2)
    bias = grads.sum(1)
    if len(grads) > 1:
        return torch.bmm(grads.mT, rows), bias
    g, a = grads[0], rows[0]
    if grad.device.type == "cpu" and g.shape[1] > a.shape[1]:
        # On CPUs the wider factor is the second one: this product is faster, and the transpose of its result is cheap.
        return product(a.mT, g, gradient=True).mT[None], bias
    return product(g.mT, a, gradient=True)[None], bias

"""The residual addition and the layer norm after it, on packed tensors."""
# S sides, B batch, N tokens, D embed_dim (possibly padded with zeros)

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from vitas_ds.models import kernels
from vitas_ds.models.layers import pad_to


def add_norm(
    x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, embed_dim: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Add a branch to the residual stream, and normalize the sum over its first ``embed_dim`` channels.

    Args:
        x: Residual stream [S, ..., D].
        branch: Output of attention or MLP [S, ..., D]; None: nothing to add.
        weight: Weight of the norm [S, D].
        bias: Bias of the norm [S, D].
        embed_dim: True width; the channels behind it are zero, also in the result.
        eps: Added to the variance.

    Returns:
        The sum and the normalized sum.
    """
    if torch.compiler.is_compiling():
        total = x if branch is None else x + branch
        return total, _plain_norm(total, weight, bias, embed_dim, eps)
    return cast(tuple[Tensor, Tensor], _AddNorm.apply(x, branch, weight, bias, embed_dim, eps))


def _plain_norm(x: Tensor, weight: Tensor, bias: Tensor, embed_dim: int, eps: float) -> Tensor:
    """Normalize with operators that ``torch.compile`` fuses into one kernel for all widths."""
    if torch.compiler.is_exporting():  # exported networks have one side, no padding, and the usual operator
        return F.layer_norm(x, (embed_dim,), weight[0], bias[0], eps)
    channels = torch.arange(x.shape[-1], device=x.device) < embed_dim
    exact = x.to(weight.dtype)
    centered = torch.where(channels, exact - exact.sum(-1, keepdim=True) / embed_dim, 0.0)
    normed = centered * (centered.square().sum(-1, keepdim=True) / embed_dim + eps).rsqrt()
    shape = (len(x), *[1] * (x.ndim - 2), -1)
    return (normed * weight.view(shape) + bias.view(shape)).to(x.dtype)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor, embed_dim: int, eps: float
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.embed_dim, ctx.eps = embed_dim, eps
        ctx.kernel = kernels.used_for(weight) and x.shape[-1] % 8 == 0
        if ctx.kernel:
            total, normed = kernels.add_norm(x, branch, weight, bias, embed_dim, eps)
            ctx.save_for_backward(total, weight)
            return x.view_as(x) if branch is None else total, normed
        total = x.view_as(x) if branch is None else x + branch
        sides, means, deviations = [], [], []
        if total.device.type != "cpu":  # CPUs accept bf16 values with fp32 weights
            weight, bias = weight.to(total.dtype), bias.to(total.dtype)
        for side, w, b in zip(total, weight, bias, strict=True):
            y, mean, rstd = torch.native_layer_norm(
                side[..., :embed_dim], (embed_dim,), w[:embed_dim], b[:embed_dim], eps
            )
            sides.append(pad_to(y, x.shape[-1]))
            means.append(mean)
            deviations.append(rstd)
        ctx.save_for_backward(total, weight, bias, *means, *deviations)
        return total, _stack(sides)

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return grad_total, grad_total if ctx.needs_input_grad[1] else None, None, None, None, None
        if ctx.kernel:
            return _kernel_backward(ctx, grad_total, grad)
        total, weight, bias, *stats = ctx.saved_tensors
        S, D = len(total), ctx.embed_dim
        sides = []
        for side, g, w, b, mean, rstd in zip(total, grad, weight, bias, stats[:S], stats[S:], strict=True):
            sides.append(torch.ops.aten.native_layer_norm_backward(
                g[..., :D], side[..., :D], (D,), mean, rstd, w[:D], b[:D], [True] * 3
            ))  # fmt: skip
        dx, dweight, dbias = (
            _stack([pad_to(value, total.shape[-1]) for value in values]) for values in zip(*sides, strict=True)
        )
        if grad_total is not None:
            dx += grad_total
        return dx, dx if ctx.needs_input_grad[1] else None, dweight, dbias, None, None


def _kernel_backward(ctx: Any, grad_total: Tensor | None, grad: Tensor) -> tuple[Tensor | None, ...]:
    total, weight = ctx.saved_tensors
    dx, parts = kernels.add_norm_backward(total, weight, grad, grad_total, ctx.embed_dim, ctx.eps)
    dweight, dbias = parts.sum(0)
    return dx, dx if ctx.needs_input_grad[1] else None, dweight, dbias, None, None


def _stack(sides: list[Tensor]) -> Tensor:
    """Stack tensors without a copy if there is only one."""
    return sides[0][None] if len(sides) == 1 else torch.stack(sides)

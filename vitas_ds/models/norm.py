"""The residual addition and the layer norm after it, on packed tensors."""
# S sides, B batch, N tokens, D embed_dim (possibly padded with zeros)

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from vitas_ds.models import kernels
from vitas_ds.models import kernels_reference as reference


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
        ctx.native = x.device.type == "cpu" and len(weight) == 1 and x.shape[-1] == embed_dim
        if ctx.native:
            total = x.view_as(x) if branch is None else x + branch
            normed, *stats = torch.native_layer_norm(total, (embed_dim,), weight[0], bias[0], eps)
            ctx.save_for_backward(total, weight, bias, *stats)
        else:
            total, normed = _operators(weight).add_norm(x, branch, weight, bias, embed_dim, eps)
            total = x.view_as(x) if branch is None else total
            ctx.save_for_backward(total, weight)
        return total, normed

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return grad_total, grad_total if ctx.needs_input_grad[1] else None, None, None, None, None
        total, weight, *saved = ctx.saved_tensors
        if ctx.native:
            bias, *stats = saved
            dx, *dweights = torch.ops.aten.native_layer_norm_backward(
                grad, total, (ctx.embed_dim,), *stats, weight[0], bias[0], [True] * 3
            )
            dweight, dbias = (g[None] for g in dweights)
            if grad_total is not None:
                dx += grad_total
        else:
            dx, parts = _operators(weight).add_norm_backward(total, weight, grad, grad_total, ctx.embed_dim, ctx.eps)
            dweight, dbias = parts.sum(0)
        return dx, dx if ctx.needs_input_grad[1] else None, dweight, dbias, None, None


def _operators(weight: Tensor) -> Any:
    """Return the module with the operators for padded channels and stacked sides."""
    return kernels if kernels.used_for(weight) and weight.shape[-1] % 8 == 0 else reference

"""Softmax attention whose backward pass returns the gradients of q, k and v in one tensor.

It uses torch's fused kernel, except on CPUs where that is slow. The choice depends on dtype and widths only:

- fp32: heads are padded to a multiple of 4 channels, at least 16. MKL is slow for other widths.
- bf16, heads of up to 24 channels: the backward pass computes in fp32. In bf16 it takes three times as long.
- bf16, wider heads: the backward pass computes the attention map again, for as many heads as fit into the cache.
"""
# B batch, N tokens, M query tokens (N, or 1 for the class token), h num_heads, d head_dim (may be padded with zeros)
# f head_dim padded here, X chunk of the B * h heads

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_NARROW_HEAD = 24  # channels; for wider heads, bf16 products are faster than fp32 ones
CHUNK_ELEMENTS = 2**20  # of the attention map, per thread: larger chunks do not fit into its cache

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attention(qkv: Tensor, scale: float) -> Tensor:
    """Compute softmax attention of contiguous projections [B, N, 3, h, d] -> [B, N, h * d]."""
    return _attend((qkv,), scale)


def attend(q: Tensor, kv: Tensor, scale: float) -> Tensor:
    """Compute softmax attention of queries [B, M, h, d] to kv [B, N, 2, h, d] -> [B, M, h * d]."""
    return _attend((q, kv), scale)


def _attend(packed: tuple[Tensor, ...], scale: float) -> Tensor:
    """Compute attention of ``packed``: qkv, or q and kv."""
    if _uses_cpu_kernels(packed[0]):
        return cast(Tensor, _CpuAttention.apply(scale, *packed))
    q_BhMd, k_BhNd, v_BhNd = (x.transpose(1, 2) for x in _unpack(packed))
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        q_BhMd, scale = q_BhMd * scale, 1.0  # as an argument, each value of the scale would need a graph of its own
    return F.scaled_dot_product_attention(q_BhMd, k_BhNd, v_BhNd, scale=scale).transpose(1, 2).flatten(2)


def _uses_cpu_kernels(x: Tensor) -> bool:
    """Return whether to use the functions below. Disabling the flash kernel, which covers CPUs too, disables them."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not torch.backends.cuda.flash_sdp_enabled():
        return False
    return x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and _padded_width(x.shape[-1]) > x.shape[-1])


def _unpack(packed: Sequence[Tensor]) -> list[Tensor]:
    """Return views of q [B, M, h, d], k and v [B, N, h, d]."""
    return [part for x in packed for part in (x.unbind(2) if x.ndim == 5 else (x,))]


class _CpuAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: float, *packed: Tensor) -> Tensor:
        q, k, v = _unpack(packed)
        ctx.scale, ctx.fused = scale, _has_fused_backward(q)
        out, lse = _forward(q, k, v, scale)
        ctx.save_for_backward(*packed, *((out, lse) if ctx.fused else ()))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # gradient checkpointing allows one access
        packed = saved[:-2] if ctx.fused else saved
        inputs, grads = _unpack(packed), [torch.empty_like(x) for x in packed]
        grad_BMhd = grad.contiguous().view(inputs[0].shape)
        if ctx.fused:
            out, lse = saved[-2:]
            _backward_fused(inputs, out.view(grad_BMhd.shape), lse, grad_BMhd, ctx.scale, _unpack(grads))
        else:
            _backward_by_products(inputs, grad_BMhd, ctx.scale, _unpack(grads))
        return None, *grads


def _has_fused_backward(q: Tensor) -> bool:
    """Return whether the backward pass uses the fused kernel. For a single query it is slow in bf16."""
    return q.dtype == torch.float32 or (q.shape[-1] <= MAX_NARROW_HEAD and q.shape[1] > 1)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the output [B, M, h * d] and the logarithm of the sums of the softmax [B, h, M]."""
    B, M, h, d = q.shape
    if q.dtype == torch.bfloat16:
        out, lse = _fused(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale=scale)
        return out.transpose(1, 2).flatten(2), lse
    out_BMhd, lse_BhM = torch.empty(q.shape), torch.empty(B, h, M)
    for i in _samples(B, h * M * k.shape[1]):
        out, lse_BhM[i] = _fused(*(_padded(x[i]) for x in (q, k, v)), scale=scale)
        out_BMhd[i] = out.transpose(1, 2)[..., :d]
    return out_BMhd.flatten(2), lse_BhM


def _backward_fused(
    inputs: Sequence[Tensor], out: Tensor, lse: Tensor, grad: Tensor, scale: float, grads: Sequence[Tensor]
) -> None:
    """Write the gradients of q, k and v to ``grads``, computed in fp32 by the fused kernel, some samples at a time."""
    B, M, h, d = out.shape
    for i in _samples(B, h * M * inputs[1].shape[1]):
        tensors = [_padded(x[i]) for x in (grad, *inputs, out)]
        found = _fused_backward(*tensors, lse[i], 0.0, False, scale=scale)
        for full, part in zip(grads, found, strict=True):
            full[i] = part.transpose(1, 2)[..., :d]


def _samples(batch: int, elements: int) -> Iterator[slice]:
    """Yield chunks of samples, each with ``elements`` of the attention map."""
    size = max(1, CHUNK_ELEMENTS * torch.get_num_threads() // elements)
    return (slice(start, start + size) for start in range(0, batch, size))


def _padded(x: Tensor) -> Tensor:
    """[B, N, h, d] -> [B, h, N, f] in fp32."""
    padding = _padded_width(x.shape[-1]) - x.shape[-1]
    x = x.float()
    return (F.pad(x, (0, padding)) if padding else x).transpose(1, 2)  # a padding of 0 would copy


def _padded_width(d: int) -> int:
    return max(16, -(-d // 4) * 4)


def _backward_by_products(inputs: Sequence[Tensor], grad: Tensor, scale: float, grads: Sequence[Tensor]) -> None:
    """Write the gradients of q, k and v to ``grads``. The attention map is computed again, some heads at a time."""
    copies = [_by_heads(x) for x in (*inputs, grad)]
    heads = [x.flatten(0, 1) for x in copies]
    size = max(1, CHUNK_ELEMENTS * torch.get_num_threads() // (grad.shape[1] * inputs[1].shape[1]))
    for q, k, v, g in zip(*(x.split(size) for x in heads), strict=True):  # [X, M or N, d]
        map_XMN = _scaled_bmm(q, k.mT, scale).softmax(-1)
        inner_XMN = torch._softmax_backward_data(torch.bmm(g, v.mT), map_XMN, -1, g.dtype)
        # Each gradient replaces an input not needed any more: this saves memory.
        torch.bmm(map_XMN.mT, g, out=v)
        dk_XNd = _scaled_bmm(inner_XMN.mT, q, scale)
        _scaled_bmm(inner_XMN, k, scale, out=q)
        k.copy_(dk_XNd)
    for full, part in zip(grads, copies[:3], strict=True):
        _as_words(full).copy_(_as_words(part).transpose(1, 2))


def _by_heads(x: Tensor) -> Tensor:
    """[B, N, h, d] -> [B, h, N, d] in memory of its own."""
    return _as_words(x).transpose(1, 2).clone(memory_format=torch.contiguous_format).view(x.dtype)


def _as_words(x: Tensor) -> Tensor:
    """View bf16 channels as larger integers: torch copies rows of fewer than 128 elements one by one."""
    words = torch.int64 if x.shape[-1] % 4 == 0 else torch.int32
    return x.view(words) if x.shape[-1] % 2 == 0 else x


def _scaled_bmm(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """Compute ``scale * a @ b`` of batches of matrices in one kernel."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=scale, out=out)

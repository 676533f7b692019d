"""What the supernet and the plain network compute alike: patches, attention, drop path, seeded initial weights."""
# B batch, N tokens (class token first), n = N - 1 patches, D embedding width, h heads, a q width, d = a / h head width

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.models.matmul import by_onednn
from vitas_ds.models.sliced import linear


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] -> [B, n, 3 * patch_size ** 2]: rows of pixels in the order of a convolution's weight."""
    B, C, H, W = images.shape
    p = patch_size
    patches = images.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, (H // p) * (W // p), C * p * p)


def embed_patches(patches: Tensor, weight: Tensor, bias: Tensor | None, cls_token: Tensor, pos_embed: Tensor) -> Tensor:
    """Tokens [B, N, D] of patches [B, n, 3pp]: linear embedding, class token in front, positions added."""
    x_BnD = linear(patches.to(weight.dtype), weight.flatten(1), bias)
    cls_B1D = cls_token.to(x_BnD.dtype).expand(x_BnD.shape[0], -1, -1)
    return torch.cat([cls_B1D, x_BnD], 1) + pos_embed.to(x_BnD.dtype)


def attention(qkv: Tensor, num_heads: int, scale: float | None) -> Tensor:
    """Softmax attention of joint projections [B, N, 3a] -> [B, N, a]; ``scale`` None is d ** -0.5."""
    q, k, v = qkv.chunk(3, -1)
    return attend(q, k, v, num_heads, scale)


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float | None) -> Tensor:
    """Softmax attention of q [B, M, a] to k and v [B, N, a] -> [B, M, a]; ``scale`` None is d ** -0.5."""
    q_BhMd, k_BhNd, v_BhNd = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    if _is_slow(q_BhMd):
        x_BhMd = _FilledAttention.apply(q_BhMd, k_BhNd, v_BhNd, scale or q_BhMd.shape[-1] ** -0.5)
    elif q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        x_BhMd = _Bf16Attention.apply(q_BhMd, k_BhNd, v_BhNd, scale or q_BhMd.shape[-1] ** -0.5)
    else:
        x_BhMd = F.scaled_dot_product_attention(q_BhMd, k_BhNd, v_BhNd, scale=scale)
    return x_BhMd.transpose(1, 2).flatten(2)


def _is_slow(q: Tensor) -> bool:
    """Whether torch's fused kernel of fp32 on CPUs would be slow: MKL is, for narrow or odd heads.

    The switch of that kernel holds on CPUs as well, and what is switched off with oneDNN (product.py) is this, too.
    """
    odd = q.shape[-1] < 16 or q.shape[-1] % 4 > 0
    return odd and by_onednn(q) and torch.backends.cuda.flash_sdp_enabled()


class _FilledAttention(torch.autograd.Function):
    """Torch's fused attention of CPUs on heads filled up with zeros to a multiple of 4 channels, at least 16.

    q [B, h, M, d], k and v [B, h, N, d] -> [B, h, M, d]: the same sums. What is kept is not filled up.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        filled = (_filled(x) for x in (q, k, v))
        x_BhMf, lse_BhM = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*filled, scale=scale)
        x_BMhd = x_BhMf[..., : q.shape[-1]].transpose(1, 2).contiguous()
        ctx.save_for_backward(q, k, v, x_BMhd, lse_BhM)
        ctx.scale = scale
        return x_BMhd.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, x_BMhd, lse_BhM = ctx.saved_tensors
        filled = (_filled(x) for x in (grad, q, k, v, x_BMhd.transpose(1, 2)))
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *filled, lse_BhM, 0.0, False, scale=ctx.scale
        )
        return *(g[..., : q.shape[-1]] for g in grads), None


def _filled(x: Tensor) -> Tensor:
    """[..., d] with zeros added to d."""
    return F.pad(x, (0, max(16, -(-x.shape[-1] // 4) * 4) - x.shape[-1]))


class _Bf16Attention(torch.autograd.Function):
    """Attention for CPUs, where torch's fused backward pass is slow in bf16: this one recomputes the map in pieces.

    q [B, h, M, d], k and v [B, h, N, d] -> [B, h, M, d]. A piece is some heads, as many as fit into the cache.
    """

    PIECE = 2**20  # elements of the map

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        heads, scale = grad.shape[:2], ctx.scale
        flat = [x.flatten(0, 1) for x in (*ctx.saved_tensors, grad)]  # [B * h, M or N, d]
        grads = [torch.empty_like(x) for x in flat[:3]]
        size = max(1, _Bf16Attention.PIECE // (flat[0].shape[1] * flat[1].shape[1]))
        for q, k, v, g, dq, dk, dv in zip(*(x.split(size) for x in (*flat, *grads)), strict=True):
            map_XMN = _product(q, k.mT, scale).softmax(-1)
            inner_XMN = torch._softmax_backward_data(torch.bmm(g, v.mT), map_XMN, -1, g.dtype)
            _product(inner_XMN, k, scale, out=dq)
            _product(inner_XMN.mT, q, scale, out=dk)
            torch.bmm(map_XMN.mT, g, out=dv)
        return *(x.unflatten(0, heads) for x in grads), None


def _product(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """``scale * a @ b`` of batches of matrices, scaled on the way."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=scale, out=out)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): whole samples [B, ...] of a residual branch are zeroed, the rest scaled."""
    if rate == 0.0 or not training:
        return x
    keep = torch.rand((len(x), *[1] * (x.ndim - 1)), device=x.device) >= rate
    return x * (keep / (1 - rate)).to(x.dtype)


def init_weights(model: nn.Module, seed: int, std: float | None = 0.02) -> None:
    """Initial weights from (seed, parameter name) alone: alike on all ranks, for any number of them.

    Matrices: normal with deviation ``std`` (0.02: the first release, cut at 2, far out, as timm's trunc_normal_ does);
    None: fan_in ** -0.5, which narrow nets need to learn at all fast. Patch embeddings: uniform within fan_in ** -0.5,
    as a torch convolution. Norms 1 and 0; biases, class token and position embedding 0.
    """
    for name, weight in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        with torch.no_grad():
            if weight.ndim == 4:
                bound = weight[0].numel() ** -0.5
                values = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
            elif weight.ndim == 2:
                values = torch.empty(weight.shape)
                nn.init.trunc_normal_(values, std=weight.shape[1] ** -0.5 if std is None else std, generator=generator)
            else:
                values = torch.full(weight.shape, float("norm" in name and name.endswith("weight")))
            weight.copy_(values)

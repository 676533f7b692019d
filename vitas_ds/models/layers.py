"""Functions of the supernet and the plain network: patches, attention, drop path, seeded initial weights."""
# B batch, C = 3 image channels, H height, W width, p patch_size, N tokens (class token first), n = N - 1 patches
# D embed_dim, h num_heads, d head_dim, a = h * d = qkv_dim / 3, M query tokens (N, or 1 for the class token)
# f padded head_dim, X chunk of the B * h heads

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.models.matmul import uses_onednn
from vitas_ds.models.sliced import linear


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] -> [B, n, 3 * p * p]: cut images into patches, with pixels in the order of a convolution weight."""
    B, C, H, W = images.shape
    p = patch_size
    patches = images.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, (H // p) * (W // p), C * p * p)


def embed_patches(patches: Tensor, weight: Tensor, bias: Tensor | None, cls_token: Tensor, pos_embed: Tensor) -> Tensor:
    """[B, n, 3 * p * p] -> [B, N, D]: embed patches linearly, prepend the class token, add the position embedding."""
    x_BnD = linear(patches.to(weight.dtype), weight.flatten(1), bias)
    cls_B1D = cls_token.to(x_BnD.dtype).expand(x_BnD.shape[0], -1, -1)
    return torch.cat([cls_B1D, x_BnD], 1) + pos_embed.to(x_BnD.dtype)


def attention(qkv: Tensor, num_heads: int, scale: float | None) -> Tensor:
    """Compute softmax attention of joint projections [B, N, 3 * a] -> [B, N, a]. ``scale`` None: d ** -0.5."""
    q, k, v = qkv.chunk(3, -1)
    return attend(q, k, v, num_heads, scale)


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float | None) -> Tensor:
    """Compute softmax attention of q [B, M, a] to k and v [B, N, a] -> [B, M, a]. ``scale`` None: d ** -0.5."""
    q_BhMd, k_BhNd, v_BhNd = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    if _needs_padding(q_BhMd):
        x_BhMd = _PaddedAttention.apply(q_BhMd, k_BhNd, v_BhNd, scale or q_BhMd.shape[-1] ** -0.5)
    elif q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        x_BhMd = _Bf16Attention.apply(q_BhMd, k_BhNd, v_BhNd, scale or q_BhMd.shape[-1] ** -0.5)
    else:
        x_BhMd = F.scaled_dot_product_attention(q_BhMd, k_BhNd, v_BhNd, scale=scale)
    return x_BhMd.transpose(1, 2).flatten(2)


def _needs_padding(q: Tensor) -> bool:
    """Return whether the fused fp32 kernel of torch would be slow: on CPUs, MKL is slow for narrow or odd heads.

    Disabling the flash kernel (which covers CPUs too) or oneDNN (matmul.py) also disables padding.
    """
    narrow_or_odd = q.shape[-1] < 16 or q.shape[-1] % 4 > 0
    return narrow_or_odd and uses_onednn(q) and torch.backends.cuda.flash_sdp_enabled()


class _PaddedAttention(torch.autograd.Function):
    """The fused CPU attention of torch on heads padded with zeros to a multiple of 4 channels, at least 16.

    q [B, h, M, d], k and v [B, h, N, d] -> [B, h, M, d]. The sums do not change. Saved tensors are not padded.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        padded = (_pad_heads(x) for x in (q, k, v))
        x_BhMf, lse_BhM = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*padded, scale=scale)
        x_BMhd = x_BhMf[..., : q.shape[-1]].transpose(1, 2).contiguous()
        ctx.save_for_backward(q, k, v, x_BMhd, lse_BhM)
        ctx.scale = scale
        return x_BMhd.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, x_BMhd, lse_BhM = ctx.saved_tensors
        padded = (_pad_heads(x) for x in (grad, q, k, v, x_BMhd.transpose(1, 2)))
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *padded, lse_BhM, 0.0, False, scale=ctx.scale
        )
        return *(g[..., : q.shape[-1]] for g in grads), None


def _pad_heads(x: Tensor) -> Tensor:
    """[..., d] -> [..., f]: append zeros."""
    return F.pad(x, (0, max(16, -(-x.shape[-1] // 4) * 4) - x.shape[-1]))


class _Bf16Attention(torch.autograd.Function):
    """Attention for bf16 on CPUs, where the fused backward pass of torch is slow.

    The backward pass recomputes the attention map in chunks of as many heads as fit into the cache.
    q [B, h, M, d], k and v [B, h, N, d] -> [B, h, M, d].
    """

    CHUNK_ELEMENTS = 2**20  # of the attention map

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        heads, scale = grad.shape[:2], ctx.scale
        flat = [x.flatten(0, 1) for x in (*ctx.saved_tensors, grad)]  # [B * h, M or N, d]
        grads = [torch.empty_like(x) for x in flat[:3]]
        size = max(1, _Bf16Attention.CHUNK_ELEMENTS // (flat[0].shape[1] * flat[1].shape[1]))
        for q, k, v, g, dq, dk, dv in zip(*(x.split(size) for x in (*flat, *grads)), strict=True):
            map_XMN = _scaled_bmm(q, k.mT, scale).softmax(-1)
            inner_XMN = torch._softmax_backward_data(torch.bmm(g, v.mT), map_XMN, -1, g.dtype)
            _scaled_bmm(inner_XMN, k, scale, out=dq)
            _scaled_bmm(inner_XMN.mT, q, scale, out=dk)
            torch.bmm(map_XMN.mT, g, out=dv)
        return *(x.unflatten(0, heads) for x in grads), None


def _scaled_bmm(a: Tensor, b: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
    """Compute ``scale * a @ b`` of batches of matrices in one kernel."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=scale, out=out)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Drop whole samples of a residual branch [B, ...] and scale the others (stochastic depth, arXiv 1603.09382)."""
    if rate == 0.0 or not training:
        return x
    keep = torch.rand((len(x), *[1] * (x.ndim - 1)), device=x.device) >= rate
    return x * (keep / (1 - rate)).to(x.dtype)


def init_weights(model: nn.Module, seed: int, std: float | None = 0.02) -> None:
    """Initialize weights from seed and parameter name only: equal on all ranks, for any number of ranks.

    - Matrices: normal with standard deviation ``std``. 0.02 is that of the first release, truncated at +-2 (not at two
      standard deviations), like timm's ``trunc_normal_``. None: fan_in ** -0.5, without which narrow networks learn
      slowly.
    - Patch embeddings: uniform within +-fan_in ** -0.5, like a convolution of torch.
    - Norms: weight 1, bias 0. Other biases, class token and position embedding: 0.
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

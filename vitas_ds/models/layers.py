"""What the supernet and the plain network compute alike: patches, attention, drop path, seeded initial weights."""
# B batch, N tokens (class token first), n = N - 1 patches, D embedding width, h heads, a q width, d = a / h head width

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] -> [B, n, 3 * patch_size ** 2]: rows of pixels in the order of a convolution's weight."""
    B, C, H, W = images.shape
    p = patch_size
    patches = images.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, (H // p) * (W // p), C * p * p)


def embed_patches(patches: Tensor, weight: Tensor, bias: Tensor | None, cls_token: Tensor, pos_embed: Tensor) -> Tensor:
    """Tokens [B, N, D] of patches [B, n, 3pp]: linear embedding, class token in front, positions added."""
    x_BnD = F.linear(patches.to(weight.dtype), weight.flatten(1), bias)
    cls_B1D = cls_token.to(x_BnD.dtype).expand(x_BnD.shape[0], -1, -1)
    return torch.cat([cls_B1D, x_BnD], 1) + pos_embed.to(x_BnD.dtype)


def attention(qkv: Tensor, num_heads: int, scale: float | None) -> Tensor:
    """Softmax attention of joint projections [B, N, 3a] -> [B, N, a]; ``scale`` None is d ** -0.5."""
    B, N, _ = qkv.shape
    q_BhNd, k_BhNd, v_BhNd = qkv.reshape(B, N, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    x_BhNd = F.scaled_dot_product_attention(q_BhNd, k_BhNd, v_BhNd, scale=scale)
    return x_BhNd.transpose(1, 2).reshape(B, N, -1)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): whole samples [B, ...] of a residual branch are zeroed, the rest scaled."""
    if rate == 0.0 or not training:
        return x
    keep = torch.rand((len(x), *[1] * (x.ndim - 1)), device=x.device) >= rate
    return x * (keep / (1 - rate)).to(x.dtype)


def init_weights(model: nn.Module, seed: int) -> None:
    """Initial weights of the first release, from (seed, parameter name) alone: alike on all ranks, for any number.

    Matrices: normal with deviation 0.02, cut at two deviations. Patch embeddings: uniform within fan_in ** -0.5, as a
    torch convolution. Norms 1 and 0; biases, class token and position embedding 0.
    """
    for name, weight in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        with torch.no_grad():
            if weight.ndim == 4:
                bound = weight[0].numel() ** -0.5
                values = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
            elif weight.ndim == 2:
                values = torch.empty(weight.shape)
                nn.init.trunc_normal_(values, std=0.02, a=-0.04, b=0.04, generator=generator)
            else:
                values = torch.full(weight.shape, float("norm" in name and name.endswith("weight")))
            weight.copy_(values)

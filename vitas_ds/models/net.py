"""The forward pass of every network: a vision transformer as functions of packed tensors.

Training, scoring, evaluation and export all use these functions. A network is a list of packed tensors (``pack``):
those of the stem, of each layer and of the head, each with a first dimension for the sides of the sharing rule.
"""
# S sides, B batch, H height, W width, p patch_size, N = P + n tokens: P prefix tokens (class token first), n patches
# D embed_dim, h num_heads, d head_dim, a = h * d = qkv_dim / 3; D and d may be padded with zeros

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.attention import attend, attention
from vitas_ds.models.layers import drop_path, pad_to, patchify
from vitas_ds.models.linear import linear, mlp
from vitas_ds.models.norm import add_norm
from vitas_ds.models.pack import Packed
from vitas_ds.models.plan import CLASSIFIERS

NORM_EPS = 1e-6
Apply = Callable[..., Any]  # apply(part, function, *args) calls function(packed tensors of the part, *args)


class LayerOptions(NamedTuple):
    """Settings of a block besides its tensors: plain numbers, so a compiled block serves all layers.

    Attributes:
        num_heads: Number of heads.
        scale: Softmax scale.
        embed_dim: D without padding.
        class_token_only: Compute only the class token.
        drop_path_rate: Rate of stochastic depth; 0 outside of training.
        norm_eps: Added to the variance in both norms.
    """

    num_heads: int
    scale: float
    embed_dim: int
    class_token_only: bool = False
    drop_path_rate: float = 0.0
    norm_eps: float = NORM_EPS


def layer_options(
    layer: LayerSpec, spec: SubnetSpec, class_token_only: bool = False, drop_path_rate: float = 0.0
) -> LayerOptions:
    """Return the options of a layer of a network."""
    scale = layer.head_dim**-0.5 if layer.softmax_scale is None else layer.softmax_scale
    return LayerOptions(layer.num_heads, scale, spec.embed_dim, class_token_only, drop_path_rate, spec.norm_eps)


def forward(
    images: Tensor, spec: SubnetSpec, layers: list[LayerOptions], apply: Apply, separate: bool = False
) -> Tensor:
    """Compute the logits [S, B, classes] of images [B, 3, H, W].

    Args:
        images: The images.
        spec: The network, in canonical form or not.
        layers: Options of the active layers.
        apply: ``apply(i, function, *args)`` calls ``function(packed, *args)`` with the packed tensors of part i: 0 is
            the stem, -1 the head, the layers are in between.
        separate: Return the logits of both classifiers [2, S, B, classes], instead of their mean.
    """
    x, branch = apply(0, stem, images, spec.patch_size), None
    for i, options in enumerate(layers):
        x, branch = apply(i + 1, block, x, branch, *options)
    patches = slice(spec.prefix_tokens, None) if spec.pool == "patches" else None
    logits = apply(-1, head, x, branch, spec.embed_dim, spec.final_norm_eps, patches, separate)
    return logits[..., : spec.num_classes]


def stem(packed: Packed, images: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] -> [S, B, N, D]: embed patches, prepend the prefix tokens, add the position embedding."""
    weight, bias = packed["weight"], packed["bias"]
    patches = patchify(images, patch_size).to(weight.dtype)
    patches = pad_to(patches, weight.shape[-1])
    x_SBnD = linear(patches.expand(len(weight), *patches.shape), weight, bias)
    prefix_SBPD = packed["cls_token"][:, None].expand(-1, x_SBnD.shape[1], -1, -1)
    return torch.cat([prefix_SBPD, x_SBnD], 2) + packed["pos_embed"][:, None]


def block(
    packed: Packed, x: Tensor, branch: Tensor | None, num_heads: int, scale: float, embed_dim: int,
    class_token_only: bool = False, drop_path_rate: float = 0.0, norm_eps: float = NORM_EPS,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Compute a pre-norm transformer block.

    Args:
        packed: Packed tensors of the layer.
        x: Residual stream [S, B, N, D].
        branch: Output of the MLP before, not yet added to ``x``: the norm adds it. None at the first layer.
        num_heads: Number of heads.
        scale: Softmax scale.
        embed_dim: D without padding.
        class_token_only: Compute only the class token.
        drop_path_rate: Rate of stochastic depth.
        norm_eps: Added to the variance in both norms.

    Returns:
        The residual stream, and the output of the MLP; [S, B, 1, D] with ``class_token_only``.
    """
    x, normed = add_norm(x, branch, packed["norm1.weight"], packed["norm1.bias"], embed_dim, norm_eps)
    S, B, N, _ = x.shape
    if class_token_only:
        x = x[:, :, :1]
        q = linear(normed[:, :, :1], packed["attn.q.weight"], packed["attn.q.bias"])
        kv = linear(normed, packed["attn.kv.weight"], packed["attn.kv.bias"])
        q, kv = q.view(S * B, 1, num_heads, -1), kv.view(S * B, N, 2, num_heads, -1)
        heads = attend(q, kv, scale)
    else:
        qkv = linear(normed, packed["attn.qkv.weight"], packed["attn.qkv.bias"])
        heads = attention(qkv.view(S * B, N, 3, num_heads, -1), scale)
    branch = linear(heads.view(S, B, x.shape[2], -1), packed["attn.proj.weight"], packed["attn.proj.bias"])
    branch = drop_path(_scaled(branch, packed, "ls1"), drop_path_rate)
    x, normed = add_norm(x, branch, packed["norm2.weight"], packed["norm2.bias"], embed_dim, norm_eps)
    fc1, fc2 = ((packed[f"mlp.{name}.weight"], packed[f"mlp.{name}.bias"]) for name in ("fc1", "fc2"))
    return x, drop_path(_scaled(mlp(normed, *fc1, *fc2), packed, "ls2"), drop_path_rate)


def _scaled(branch: Tensor, packed: Packed, name: str) -> Tensor:
    """Multiply a branch [S, B, N, D] by its LayerScale, if the network has one."""
    gamma = packed.get(f"{name}.gamma")
    return branch if gamma is None else branch * gamma[:, None, None]


def closed_block(packed: Packed, x: Tensor, branch: None, *options: Any) -> tuple[Tensor, None]:
    """Compute a block and add its last branch: one compiled graph then serves all layers but the last."""
    x, output = block(packed, x, branch, *options)
    return x + output, None


def head(
    packed: Packed, x: Tensor, branch: Tensor | None, embed_dim: int, eps: float, patches: slice | None = None,
    separate: bool = False,
) -> Tensor:  # fmt: skip
    """[S, B, N, D] -> [S, B, classes]: classify the class token, or the mean of these patches.

    A second classifier reads the second token; the result is the mean of both, or, if ``separate``, [2, S, B, classes].
    """
    if patches is not None:
        x = x if branch is None else x + branch
        return _classify(packed, "head", x[:, :, patches].mean(2), None, embed_dim, eps)
    names = [name for name in CLASSIFIERS if f"{name}.weight" in packed]
    logits = [
        _classify(packed, name, x[:, :, i], None if branch is None else branch[:, :, i], embed_dim, eps)
        for i, name in enumerate(names)
    ]
    if separate:
        return torch.stack(logits)
    return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2


def _classify(packed: Packed, name: str, x: Tensor, branch: Tensor | None, embed_dim: int, eps: float) -> Tensor:
    """[S, B, D] -> [S, B, classes]: normalize a token and classify it."""
    _, normed = add_norm(x, branch, packed["norm.weight"], packed["norm.bias"], embed_dim, eps)
    return linear(normed, packed[f"{name}.weight"], packed[f"{name}.bias"])

"""Plain formulation of the supernet on the same parameters: the reference of the speed measurements.

It uses contiguous slices, a convolution as the patch embedding, explicit softmax attention, autograd's gradients (each
slice is padded with zeros to full size), and one full pass per side. ``check`` compares the supernet with it.
"""
# B batch, N tokens, D embedding width, h heads

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.channels import Side, Slices, channel_slices
from vitas_ds.models.elastic import ElasticAttention, ElasticBlock, ElasticLinear, ElasticNorm
from vitas_ds.models.supernet import Supernet


def logits(supernet: Supernet, images: Tensor, spec: SubnetSpec) -> Tensor:
    """Return the logits [S, B, classes] of images [B, 3, H, W], one side after the other."""
    return torch.stack([_side(supernet, images, spec, side) for side in supernet.sides])


def _side(supernet: Supernet, images: Tensor, spec: SubnetSpec, side: Side) -> Tensor:
    embed = channel_slices(side, spec.embed_dim, supernet.space.embed_widths)
    stem = supernet.stem(spec)
    x = F.conv2d(images, _rows(stem.weight, embed), _rows(stem.bias, embed), stride=spec.patch_size)
    x = x.flatten(2).transpose(1, 2)
    cls, pos = (torch.cat([value[..., run] for run in embed], -1) for value in (stem.cls_token, stem.pos_embed))
    x = torch.cat([cls.expand(len(x), -1, -1).to(x.dtype), x], 1) + pos
    for block, layer in supernet.active_blocks(spec):
        x = _block(block, x, layer, side, embed)
    return _linear(supernet.head, _norm(supernet.norm, x, embed)[:, 0], (slice(None),), embed)


def _block(block: ElasticBlock, x: Tensor, layer: LayerSpec, side: Side, embed: Slices) -> Tensor:
    B, N, _ = x.shape
    attn, mlp = block.attn, block.mlp
    rows, hidden = channel_slices(side, layer.attn_dim, attn.widths), channel_slices(side, layer.mlp_dim, mlp.widths)
    normed = _norm(block.norm1, x, embed)
    q, k, v = (_part(attn, part, normed, layer, rows, embed) for part in "qkv")  # [B, h, N, d]
    scale = layer.head_dim**-0.5 if layer.softmax_scale is None else layer.softmax_scale
    weights = (q @ k.transpose(-2, -1) * scale).softmax(-1)
    x = x + _linear(attn.proj, (weights @ v).transpose(1, 2).reshape(B, N, -1), embed, rows)
    inner = F.gelu(_linear(mlp.fc1, _norm(block.norm2, x, embed), hidden, embed))
    return x + _linear(mlp.fc2, inner, embed, hidden)


def _part(attn: ElasticAttention, part: str, x: Tensor, layer: LayerSpec, rows: Slices, embed: Slices) -> Tensor:
    weight, bias = (getattr(attn, name) for name in attn.names(part, layer.num_heads))
    x = F.linear(x, _columns(_rows(weight, rows), embed), _rows(bias, rows))
    return x.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)


def _linear(linear: ElasticLinear, x: Tensor, out: Slices, in_: Slices) -> Tensor:
    return F.linear(x, _columns(_rows(linear.weight, out), in_), _rows(linear.bias, out))


def _norm(norm: ElasticNorm, x: Tensor, embed: Slices) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), _rows(norm.weight, embed), _rows(norm.bias, embed), norm.eps)


def _rows(weight: Tensor, runs: Slices) -> Tensor:
    return torch.cat([weight[run] for run in runs]).contiguous()


def _columns(weight: Tensor, runs: Slices) -> Tensor:
    return torch.cat([weight[:, run] for run in runs], 1).contiguous()


def check(
    supernet: Supernet, images: Tensor, spec: SubnetSpec, loss_of: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Return the relative differences of loss and gradients (per parameter: largest difference over largest element).

    The bias of ``k`` is excluded: softmax cancels it, and its gradient is only rounding error.
    """
    losses, grads = [], []
    for forward in (lambda: logits(supernet, images, spec), lambda: supernet(images, spec)):
        supernet.zero_grad()
        loss = loss_of(forward())
        loss.backward()
        losses.append(loss.item())
        grads.append({name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None})
    supernet.zero_grad()
    assert grads[0].keys() == grads[1].keys()
    names = [name for name in grads[0] if not (".attn.k" in name and name.endswith("_bias"))]
    worst = max(float((grads[0][n] - grads[1][n]).abs().max() / grads[0][n].abs().max()) for n in names)
    return {"loss": abs(losses[1] / losses[0] - 1), "gradient": worst}

"""The supernet as the first release of ViTAS computed it: the reference of the speed measurements.

Each layer copies the slices of its weights and uses them for all tokens. The patch embedding is a convolution, softmax
attention is explicit, and each side is a full pass. Autograd pads the gradient of each slice with zeros to full size.
``torch.autocast`` computes in bf16. ``check`` compares the supernet with it.
"""
# B batch, N tokens (class token first), D embed_dim, h num_heads, d head_dim, a = h * d

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.channels import Side, Slices, channel_slices
from vitas_ds.models.flat import named_tensors, tensor_places
from vitas_ds.models.supernet import Supernet

Named = Mapping[str, Tensor]


def tensors(supernet: Supernet) -> dict[str, Tensor]:
    """Return the supernet's tensors by name as parameters of their own, on the same memory.

    Each gets its own gradient. Through a flat parameter, autograd would pad each gradient to the size of that one.
    """
    return {name: tensor.detach().requires_grad_() for name, tensor in named_tensors(supernet).items()}


def logits(named: Named, space: SearchSpace, sides: Sequence[Side], images: Tensor, spec: SubnetSpec) -> Tensor:
    """Return the logits [S, B, classes] of images [B, 3, H, W], one side after the other."""
    return torch.stack([_side(named, space, images, spec, side) for side in sides])


def _side(named: Named, space: SearchSpace, images: Tensor, spec: SubnetSpec, side: Side) -> Tensor:
    embed = channel_slices(side, spec.embed_dim, space.embed_widths)
    x = _stem(_group(named, f"stems.patch{spec.patch_size}"), images, embed)
    for i, layer in enumerate(spec.layers):
        if layer is not None:
            rows = channel_slices(side, layer.attn_dim, space.attn_widths)
            hidden = channel_slices(side, layer.mlp_dim, space.mlp_widths)
            block = _group(named, f"blocks.{i}")
            x = x + _attention(_group(block, "attn"), _norm(_group(block, "norm1"), x, embed), layer, rows, embed)
            x = x + _mlp(_group(block, "mlp"), _norm(_group(block, "norm2"), x, embed), hidden, embed)
    return _linear(_group(named, "head"), _norm(_group(named, "norm"), x, embed)[:, 0], (slice(None),), embed)


def _stem(stem: Named, images: Tensor, embed: Slices) -> Tensor:
    """[B, 3, H, W] -> [B, N, D]."""
    weight = _take(stem["weight"], 0, embed)
    x = F.conv2d(images, weight, _take(stem["bias"], 0, embed), stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    cls, pos = (_take(stem[name], 2, embed) for name in ("cls_token", "pos_embed"))
    return torch.cat([cls.expand(len(x), -1, -1).to(x.dtype), x], 1) + pos


def _attention(attn: Named, x: Tensor, layer: LayerSpec, rows: Slices, embed: Slices) -> Tensor:
    q, k, v = (
        _linear(_projection(attn, part, layer), x, rows, embed).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        for part in "qkv"
    )  # [B, h, N, d]
    scale = layer.head_dim**-0.5 if layer.softmax_scale is None else layer.softmax_scale
    weights = (q @ k.transpose(-2, -1) * scale).softmax(-1)
    return _linear(_group(attn, "proj"), (weights @ v).transpose(1, 2).flatten(2), embed, rows)


def _projection(attn: Named, part: str, layer: LayerSpec) -> Named:
    """Return weight and bias of q, k or v: those of the head count, if it has its own, else the shared ones."""
    private = f"{part}{layer.num_heads}_"
    prefix = private if f"{private}weight" in attn else f"{part}_"
    return {name: attn[prefix + name] for name in ("weight", "bias")}


def _mlp(mlp: Named, x: Tensor, hidden: Slices, embed: Slices) -> Tensor:
    return _linear(_group(mlp, "fc2"), F.gelu(_linear(_group(mlp, "fc1"), x, hidden, embed)), embed, hidden)


def _linear(linear: Named, x: Tensor, out: Slices, in_: Slices) -> Tensor:
    return F.linear(x, _take(_take(linear["weight"], 0, out), 1, in_), _take(linear["bias"], 0, out))


def _norm(norm: Named, x: Tensor, embed: Slices) -> Tensor:
    weight, bias = (_take(norm[name], 0, embed) for name in ("weight", "bias"))
    return F.layer_norm(x, (x.shape[-1],), weight, bias, 1e-6)


def _group(named: Named, prefix: str) -> Named:
    """Return the tensors whose names start with ``prefix.``, without it."""
    start = len(prefix) + 1
    return {name[start:]: tensor for name, tensor in named.items() if name.startswith(f"{prefix}.")}


def _take(weight: Tensor, dim: int, runs: Slices) -> Tensor:
    """Return a contiguous copy of some channels of a dimension."""
    pieces = [weight[(*[slice(None)] * dim, run)] for run in runs]
    return pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces, dim)


def check(
    supernet: Supernet, images: Tensor, spec: SubnetSpec, loss_of: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """Return the relative differences of loss and gradients (per tensor: largest difference over largest element).

    The bias of ``k`` is excluded: softmax cancels it, and its gradient is only rounding error.
    """
    named = tensors(supernet)
    expected = loss_of(logits(named, supernet.space, supernet.sides, images, spec))
    expected.backward()
    supernet.zero_grad()
    found = loss_of(supernet(images, spec))
    found.backward()
    grads = _gradients(supernet)
    supernet.zero_grad()
    used = {name for name, tensor in named.items() if tensor.grad is not None}
    assert used == grads.keys(), used ^ grads.keys()
    names = [name for name in used if not re.search(r"\.k\d*_bias$", name)]
    worst = max(float((grads[n] - named[n].grad).abs().max() / named[n].grad.abs().max()) for n in names)
    return {"loss": abs(found.item() / expected.item() - 1), "gradient": worst}


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of the named tensors; parameters without a gradient are left out."""
    return {
        name: place.within(place.parameter.grad)
        for name, place in tensor_places(model).items()
        if place.parameter.grad is not None
    }

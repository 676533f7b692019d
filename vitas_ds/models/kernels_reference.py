"""The operators of ``models/kernels.py`` in plain torch, for CPUs and as a reference for the kernels."""
# S sides, R rows of a side (batch times tokens), D padded width

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pack(sources: Sequence[Tensor], regions: Tensor, _programs: Tensor, tensors: Sequence[Tensor]) -> None:
    """Compute ``pack``."""
    for region in regions.tolist():
        source, tensor, index = _region_views(region, sources, tensors)
        tensor[index] = source.to(tensor.dtype)


def scatter(tensors: Sequence[Tensor | None], regions: Tensor, _programs: Tensor, sources: Sequence[Tensor]) -> None:
    """Compute ``scatter``."""
    for region in regions.tolist():
        if tensors[region[3]] is not None:
            source, tensor, index = _region_views(region, sources, tensors)
            source += tensor[index].to(source.dtype)


def _region_views(
    region: Sequence[int], sources: Sequence[Tensor], tensors: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a region as a view of its source, its tensor as a vector, and the indices of the region in it."""
    source, source_offset, source_stride, tensor, tensor_offset, tensor_stride, rows, columns, *periods = region
    packed = tensors[tensor]
    assert packed is not None
    row, column = (
        index + (index + phase) // period * gap
        for index, (period, gap, phase) in (
            (torch.arange(rows, device=packed.device), periods[:3]),
            (torch.arange(columns, device=packed.device), periods[3:]),
        )
    )
    view = sources[source].detach().view(-1)[source_offset:].as_strided((rows, columns), (source_stride, 1))
    return view, packed.view(-1), tensor_offset + row[:, None] * tensor_stride + column


def add_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, dim: int, eps: float) -> tuple[Tensor, Tensor]:
    """Compute ``add_norm``."""
    total = x + y
    return total, norm(total, weight, bias, dim, eps)


def norm(x: Tensor, weight: Tensor, bias: Tensor, dim: int, eps: float) -> Tensor:
    """Compute ``add_norm`` without ``y``."""
    normed = _standardize(_rows(x), dim, eps)[0] * weight[:, None, :dim] + bias[:, None, :dim]
    return F.pad(normed, (0, x.shape[-1] - dim)).to(x.dtype).view(x.shape)


def add_norm_backward(
    total: Tensor, weight: Tensor, grad_normed: Tensor, grad_total: Tensor | None, dim: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute ``add_norm_backward``, with one part."""
    padding = 0, total.shape[-1] - dim
    x, reciprocal = _standardize(_rows(total), dim, eps)
    g = _rows(grad_normed)[..., :dim].float()
    parts = F.pad(torch.stack([(g * x).sum(1), g.sum(1)]), padding)
    g = g * weight[:, None, :dim]
    g = reciprocal * (g - g.mean(-1, keepdim=True) - x * (g * x).mean(-1, keepdim=True))
    grad = F.pad(g, padding).view(total.shape)
    if grad_total is not None:
        grad = grad + grad_total.float()
    return grad.to(total.dtype), parts[None]


def _rows(x: Tensor) -> Tensor:
    """[S, ..., D] -> [S, R, D]."""
    return x.reshape(len(x), -1, x.shape[-1])


def _standardize(x: Tensor, dim: int, eps: float) -> tuple[Tensor, Tensor]:
    x = x[..., :dim].float()
    centered = x - x.mean(-1, keepdim=True)
    reciprocal = (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centered * reciprocal, reciprocal

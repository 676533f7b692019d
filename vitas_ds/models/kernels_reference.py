"""The operators of ``models/kernels.py`` in plain torch, for CPUs and as a reference for the kernels."""
# S sides, R rows of a side (batch times tokens), D padded width

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Table = Tensor | np.ndarray


def pack(sources: Sequence[Tensor], regions: Table, _programs: Tensor | None, tensors: Sequence[Tensor]) -> None:
    """Compute ``pack``."""
    for region in regions.tolist():
        source, packed = sources[region[0]], tensors[region[3]]
        if _has_gaps(region):
            packed.view(-1)[_indices(region, packed)] = _rows_of_source(region, source).to(packed.dtype)
        else:
            _rows_of_tensor(region, packed).copy_(_rows_of_source(region, source))


def scatter(
    tensors: Sequence[Tensor | None], regions: Table, _programs: Tensor | None, sources: Sequence[Tensor]
) -> None:
    """Compute ``scatter``."""
    for region in regions.tolist():
        source, packed = _rows_of_source(region, sources[region[0]]), tensors[region[3]]
        if packed is not None:
            gaps = _has_gaps(region)
            source += packed.view(-1)[_indices(region, packed)] if gaps else _rows_of_tensor(region, packed)


def _has_gaps(region: Sequence[int]) -> bool:
    return region[9] > 0 or region[12] > 0


def _rows_of_source(region: Sequence[int], source: Tensor) -> Tensor:
    _, offset, stride, _, _, _, rows, columns, *_ = region
    return source.as_strided((rows, columns), (stride, 1), source.storage_offset() + offset)


def _rows_of_tensor(region: Sequence[int], tensor: Tensor) -> Tensor:
    _, _, _, _, offset, stride, rows, columns, *_ = region
    return tensor.as_strided((rows, columns), (stride, 1), tensor.storage_offset() + offset)


def _indices(region: Sequence[int], tensor: Tensor) -> Tensor:
    """Return the indices [rows, columns] of a region in the flattened tensor."""
    _, _, _, _, offset, stride, rows, columns, *periods = region
    row, column = (
        index + (index + phase) // period * gap
        for index, (period, gap, phase) in (
            (torch.arange(rows, device=tensor.device), periods[:3]),
            (torch.arange(columns, device=tensor.device), periods[3:]),
        )
    )
    return offset + row[:, None] * stride + column


def add_norm(x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, dim: int, eps: float) -> tuple[Tensor, Tensor]:
    """Compute ``add_norm``."""
    total = x if y is None else x + y
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
    g = _rows(grad_normed)[..., :dim].to(x.dtype)
    parts = F.pad(torch.stack([(g * x).sum(1), g.sum(1)]), padding)
    g = g * weight[:, None, :dim]
    g = reciprocal * (g - g.mean(-1, keepdim=True) - x * (g * x).mean(-1, keepdim=True))
    grad = F.pad(g, padding).view(total.shape)
    if grad_total is not None:
        grad = grad + grad_total
    return grad.to(total.dtype), parts[None]


def _rows(x: Tensor) -> Tensor:
    """[S, ..., D] -> [S, R, D]."""
    return x.reshape(len(x), -1, x.shape[-1])


def _standardize(x: Tensor, dim: int, eps: float) -> tuple[Tensor, Tensor]:
    x = x[..., :dim]
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    centered = x - x.mean(-1, keepdim=True)
    reciprocal = (centered.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centered * reciprocal, reciprocal

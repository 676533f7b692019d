"""The operators of ``models/kernels.py`` in plain torch, for CPUs and as a reference for the kernels."""
# S sides, R rows of a side (batch times tokens), D padded width

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Table = Tensor | np.ndarray


def pack(sources: Sequence[Tensor], regions: Table, _programs: Tensor | None, tensors: Sequence[Tensor]) -> None:
    """Compute ``pack``."""
    for source, tensor, block in _blocks(regions):
        packed = tensors[tensor]
        block.of_tensor(packed).copy_(block.of_source(sources[source]))


def scatter(
    tensors: Sequence[Tensor | None], regions: Table, _programs: Tensor | None, sources: Sequence[Tensor]
) -> None:
    """Compute ``scatter``."""
    for source, tensor, block in _blocks(regions):
        packed = tensors[tensor]
        if packed is not None:
            block.of_source(sources[source]).add_(block.of_tensor(packed))


class _Block(NamedTuple):
    """A rectangle without gaps: offset and row stride in the source and in the tensor, and its size."""

    source: tuple[int, int]
    tensor: tuple[int, int]
    size: tuple[int, int]

    def of_source(self, source: Tensor) -> Tensor:
        """Return the view of the source."""
        return source.as_strided(self.size, (self.source[1], 1), source.storage_offset() + self.source[0])

    def of_tensor(self, tensor: Tensor) -> Tensor:
        """Return the view of the tensor."""
        return tensor.as_strided(self.size, (self.tensor[1], 1), tensor.storage_offset() + self.tensor[0])


def _blocks(regions: Table) -> Iterator[tuple[int, int, _Block]]:
    """Yield source, tensor and blocks of each region: one, or one for each padded head."""
    for region in regions.tolist():
        source, source_offset, source_stride, tensor, tensor_offset, tensor_stride, rows, columns, *periods = region
        for row, row_target, height in _groups(rows, *periods[:3]):
            for column, column_target, width in _groups(columns, *periods[3:]):
                at_source = source_offset + row * source_stride + column
                at_tensor = tensor_offset + row_target * tensor_stride + column_target
                yield source, tensor, _Block((at_source, source_stride), (at_tensor, tensor_stride), (height, width))


def _groups(length: int, period: int, gap: int, phase: int) -> Iterator[tuple[int, int, int]]:
    """Yield first element, its place in the tensor, and length of each run between gaps."""
    start = 0
    while start < length:
        size = min(period - (start + phase) % period, length - start) if gap else length
        yield start, start + (start + phase) // period * gap, size
        start += size


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

"""Pack the slices of a subnet, and scatter their gradients: one autograd function for all parameters of a step.

The packed tensors have the compute dtype, except norm weights and biases, which keep that of the parameters. The
backward pass writes the gradients of all slices into zeroed tensors of full size and returns them through autograd, so
the hooks of every ZeRO stage see them. It needs no weights.
"""
# S sides

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vitas_ds.models import kernels
from vitas_ds.models import kernels_reference as reference
from vitas_ds.models.plan import COLUMNS, Part, padded

ALIGN = 64  # elements: 128 bytes in bf16; a misaligned fp32 bias can crash cublasLt (pytorch #194497)
Packed = dict[str, Tensor]


def pack(parts: Sequence[Part], sources: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> list[Packed]:
    """Return the packed tensors [S, ...] of each part, by name.

    Args:
        parts: What to pack.
        sources: Parameters of each part.
        dtype: Compute dtype.
    """
    packed = iter(_apply(parts, sources, dtype, split=False))
    return [{name: next(packed) for name in part.shapes} for part in parts]


def pack_sides(parts: Sequence[Part], sources: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> list[list[Packed]]:
    """Return for each side what ``pack`` returns for it alone: tensors [1, ...], each with its own memory."""
    packed = iter(_apply(parts, sources, dtype, split=True))
    by_name = [{name: [next(packed) for _ in range(shape[0])] for name, shape in p.shapes.items()} for p in parts]
    sides = range(next(iter(parts[0].shapes.values()))[0])
    return [[{name: tensors[s] for name, tensors in part.items()} for part in by_name] for s in sides]


def _apply(
    parts: Sequence[Part], sources: Sequence[Sequence[Tensor]], dtype: torch.dtype, split: bool
) -> tuple[Tensor, ...]:
    flat = [tensor for group in sources for tensor in group]
    return cast(tuple[Tensor, ...], _Pack.apply(parts, [len(group) for group in sources], dtype, split, *flat))


class _Pack(torch.autograd.Function):
    """Packed slices of parameters; the backward pass scatters. With ``split``, every side is a tensor."""

    @staticmethod
    def forward(
        ctx: Any, parts: Sequence[Part], counts: Sequence[int], dtype: torch.dtype, split: bool, *sources: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        sources = tuple(source.contiguous() for source in sources)  # users may have changed the memory format
        ctx.parts, ctx.counts, ctx.split = tuple(parts), tuple(counts), split
        ctx.sources = [(tuple(source.shape), source.dtype) for source in sources]
        ctx.device = sources[0].device
        shapes = list(_packed_shapes(parts, dtype, sources[0].dtype, split))
        packed = _allocate(shapes, ctx.device, zero=any(part.is_padded for part in parts))
        if kernels.used_for(sources[0]):
            kernels.pack(sources, _tables(ctx.parts, ctx.counts, ctx.device), packed)
        else:
            reference.pack(sources, _regions(ctx.parts, ctx.counts, split), None, packed)
        return tuple(packed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        full = _allocate(ctx.sources, ctx.device, zero=True)
        packed = [None if grad is None else grad.contiguous() for grad in grads]
        if kernels.used_for(full[0]):
            kernels.scatter(packed, _tables(ctx.parts, ctx.counts, ctx.device), full)
        else:
            reference.scatter(packed, _regions(ctx.parts, ctx.counts, ctx.split), None, full)
        return None, None, None, None, *full


def _packed_shapes(
    parts: Sequence[Part], dtype: torch.dtype, norm_dtype: torch.dtype, split: bool
) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
    for part in parts:
        for name, shape in part.shapes.items():
            kind = norm_dtype if name.startswith("norm") else dtype
            yield from [((1, *shape[1:]), kind)] * shape[0] if split else [(shape, kind)]


@lru_cache(maxsize=16)  # the backward pass, gradient accumulation and scoring use them again
def _regions(parts: tuple[Part, ...], counts: tuple[int, ...], split: bool) -> np.ndarray:
    """Return the regions of all parts [regions, columns], with consecutive numbers of sources and tensors."""
    tables, first_source, first_tensor = [], 0, 0
    for part, count in zip(parts, counts, strict=True):
        table = (part.split_table if split else part.table).copy()
        table[:, COLUMNS.index("source")] += first_source
        table[:, COLUMNS.index("tensor")] += first_tensor
        tables.append(table)
        first_source += count
        first_tensor += sum(shape[0] if split else 1 for shape in part.shapes.values())
    return np.concatenate(tables)


@lru_cache(maxsize=16)
def _tables(parts: tuple[Part, ...], counts: tuple[int, ...], device: torch.device) -> kernels.Tables:
    return kernels.upload(_regions(parts, counts, False), device)


def _allocate(shapes: Sequence[tuple[tuple[int, ...], torch.dtype]], device: torch.device, zero: bool) -> list[Tensor]:
    """Allocate tensors: on a GPU from one buffer per dtype, on a CPU each by itself, which reuses memory better."""
    make = torch.zeros if zero else torch.empty
    if device.type == "cpu":
        return [make(shape, dtype=dtype) for shape, dtype in shapes]
    sizes: dict[torch.dtype, int] = {}
    offsets = []
    for shape, dtype in shapes:
        offsets.append(sizes.get(dtype, 0))
        sizes[dtype] = offsets[-1] + padded(math.prod(shape), ALIGN)
    buffers = {dtype: make(size, dtype=dtype, device=device) for dtype, size in sizes.items()}
    return [
        buffers[dtype][offset : offset + math.prod(shape)].view(shape)
        for (shape, dtype), offset in zip(shapes, offsets, strict=True)
    ]

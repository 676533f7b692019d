"""Triton kernels. Only ``models/kernels.py`` imports this module, when it launches one of them."""
# mypy: disallow-untyped-defs=False
# S sides, R rows of a side, D padded width, P programs of a side

from __future__ import annotations

import torch
import triton
import triton.language as tl

DTYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _padded(index, region, column: tl.constexpr):
    """Skip ``gap`` elements after each ``period``. The columns of the table are period, gap and phase."""
    period = tl.load(region + column).to(tl.int32)
    gap = tl.load(region + column + 1).to(tl.int32)
    phase = tl.load(region + column + 2).to(tl.int32)
    return index + (index + phase) // period * gap


@triton.jit(do_not_specialize=["num_sources"])
def copy_kernel(
    regions, programs, addresses, num_sources,
    HALF: tl.constexpr, SCATTER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Copy one tile of a region. See ``kernels.pack`` and ``kernels.scatter``.

    ``addresses`` has those of the sources, then those of the tensors. The lowest bit of a tensor's address is set if it
    has fp32 elements; otherwise its elements are ``HALF``. The address of an absent tensor is 0.
    """
    program = programs + tl.program_id(0) * 2
    region = regions + tl.load(program) * 14
    tile = tl.load(program + 1).to(tl.int32)
    rows, columns = tl.load(region + 6).to(tl.int32), tl.load(region + 7).to(tl.int32)
    tiles = tl.cdiv(columns, COLUMNS)
    row = tile // tiles * ROWS + tl.arange(0, ROWS)
    column = tile % tiles * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (column < columns)[None, :]

    # Offsets have 64 bits, like the table.
    source_row = tl.load(region + 1) + row * tl.load(region + 2)
    source = tl.load(addresses + tl.load(region)).to(tl.pointer_type(tl.float32))
    source += source_row[:, None] + column[None, :]
    tensor_row = tl.load(region + 4) + _padded(row, region, 8) * tl.load(region + 5)
    offsets = tensor_row[:, None] + _padded(column, region, 11)[None, :]
    address = tl.load(addresses + num_sources + tl.load(region + 3))
    wide = address & 1
    address -= wide
    if SCATTER:
        if wide:
            values = tl.load(address.to(tl.pointer_type(tl.float32)) + offsets, mask=mask)
            tl.atomic_add(source, values, mask=mask, sem="relaxed")
        elif address:
            values = tl.load(address.to(tl.pointer_type(HALF)) + offsets, mask=mask).to(tl.float32)
            tl.atomic_add(source, values, mask=mask, sem="relaxed")
    else:
        values = tl.load(source, mask=mask)
        if wide:
            tl.store(address.to(tl.pointer_type(tl.float32)) + offsets, values, mask=mask)
        else:
            tl.store(address.to(tl.pointer_type(HALF)) + offsets, values.to(HALF), mask=mask)


@triton.jit
def _standardize(x, used, dim, eps):
    """Subtract the mean of each row and divide by its standard deviation. Return also its reciprocal."""
    x = tl.where(used, x, 0.0)
    centered = tl.where(used, x - (tl.sum(x, 1) / dim)[:, None], 0.0)
    reciprocal = 1 / tl.sqrt_rn(tl.sum(centered * centered, 1) / dim + eps)
    return centered * reciprocal[:, None], reciprocal[:, None]


# The width is passed as a number of units of 8 elements: Triton then knows that it may load 16 bytes at a time. All
# numbers that change with the subnet are exempt from specialization, which would compile a kernel for each of them.
@triton.jit(do_not_specialize=["rows", "units", "dim"])
def norm_kernel(
    x, y, weight, bias, total, normed, rows, units, dim, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add and normalize ``ROWS`` rows of a side. ``y`` and ``total`` may be None."""
    width, side = units * 8, tl.program_id(1)
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = column < width
    used = (column < dim)[None, :]
    mask = (row < rows)[:, None] & inside[None, :]
    offsets = (side.to(tl.int64) * rows + row)[:, None] * width + column[None, :]
    value = tl.load(x + offsets, mask=mask, other=0.0)
    if y is not None:
        # The sum is rounded first: the backward pass, which reads the rounded sum, gets the same statistics.
        value = (value.to(tl.float32) + tl.load(y + offsets, mask=mask, other=0.0).to(tl.float32)).to(value.dtype)
        tl.store(total + offsets, value, mask=mask)
    value, _ = _standardize(value.to(tl.float32), used, dim, eps)
    scale = tl.load(weight + side * width + column, mask=inside, other=0.0)[None, :]
    shift = tl.load(bias + side * width + column, mask=inside, other=0.0)[None, :]
    value = tl.where(used, value * scale + shift, 0.0)
    tl.store(normed + offsets, value.to(normed.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "units", "dim"])
def norm_backward_kernel(
    total, weight, grad_normed, grad_total, grad, partial, rows, units, dim, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of every P-th block of rows of a side, and sum up that of weight and bias over them."""
    width, side, program = units * 8, tl.program_id(1), tl.program_id(0)
    column = tl.arange(0, COLUMNS)
    inside = column < width
    used = (column < dim)[None, :]
    scale = tl.where(used, tl.load(weight + side * width + column, mask=inside, other=0.0)[None, :], 0.0)
    grad_weight = tl.zeros([ROWS, COLUMNS], tl.float32)
    grad_bias = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(program * ROWS, rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & inside[None, :]
        offsets = (side.to(tl.int64) * rows + row)[:, None] * width + column[None, :]
        x, reciprocal = _standardize(tl.load(total + offsets, mask=mask, other=0.0).to(tl.float32), used, dim, eps)
        g = tl.where(used, tl.load(grad_normed + offsets, mask=mask, other=0.0).to(tl.float32), 0.0)
        grad_weight += g * x
        grad_bias += g
        g *= scale
        g = reciprocal * (g - (tl.sum(g, 1) / dim)[:, None] - x * (tl.sum(g * x, 1) / dim)[:, None])
        g = tl.where(used, g, 0.0)
        if grad_total is not None:
            g += tl.load(grad_total + offsets, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad + offsets, g.to(grad.dtype.element_ty), mask=mask)
    sides = tl.num_programs(1)
    partial += (program * 2 * sides + side) * width + column
    tl.store(partial, tl.sum(grad_weight, 0), mask=inside)
    tl.store(partial + sides * width, tl.sum(grad_bias, 0), mask=inside)

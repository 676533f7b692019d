"""Operators with Triton kernels: copies between parameters and packed slices, and LayerNorm of padded channels.

Each function is one operator of the library ``vitas_ds``: a Triton kernel on CUDA, plain torch on a CPU. It has no
gradient, so call it from the ``forward`` and ``backward`` of an ``autograd.Function``. Importing this module does not
import Triton.
"""
# S sides, R rows of a side (batch times tokens), D padded width, P programs; ... several dimensions or none

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, library

from vitas_ds.errors import UserError
from vitas_ds.models import kernels_reference as reference
from vitas_ds.models.plan import COLUMNS

_mode = "auto"  # engine.kernels

# ``plan.COLUMNS`` are the columns of a region. Element (r, c) is at ``source_offset + r * source_stride + c`` in the
# source and at ``tensor_offset + row(r) * tensor_stride + column(c)`` in the tensor, where
# ``row(r) = r + (r + row_phase) // row_period * row_gap``, and ``column`` likewise.
TILE = (8, 256)  # rows and columns copied by a program: 16 elements per thread
NORM_TILE = 2048  # elements normalized at once by a program, also 16 per thread
NORM_PROGRAMS = 512  # programs of the backward pass, about four per multiprocessor


def select(mode: str) -> None:
    """Choose the implementation for CUDA: ``auto`` (Triton if it can be used), ``triton`` or ``torch``.

    Raises:
        UserError: Triton is required but cannot be used.
    """
    global _mode
    problem = triton_problem() or _first_launch() if mode == "triton" else ""
    if problem:
        raise UserError(f"engine.kernels: {problem}; install it, or use engine.kernels=torch")
    _mode = mode


def used_for(weight: Tensor) -> bool:
    """Return whether these operators are used for an fp32 weight on this device."""
    return weight.device.type == "cuda" and weight.dtype == torch.float32 and _mode != "torch" and _has_triton()


def triton_problem() -> str:
    """Return why Triton cannot be used, or an empty text. It compiles its launcher with a C compiler."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "gcc", "clang", "cc")):
        return "triton needs a C compiler, such as gcc"
    return ""


def _first_launch() -> str:
    """Try a small kernel. Return the problem: the Python headers may be missing, or the GPU too old."""
    if not torch.cuda.is_available():
        return ""
    x, weight = torch.ones(1, 1, 8, device="cuda"), torch.ones(1, 8, device="cuda")
    try:
        launch_norm(x, weight, weight, 8, 1e-6)
    except Exception as error:  # Triton's errors have no common base class
        return f"triton cannot run here ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return ""


@functools.cache
def _has_triton() -> bool:
    problem = triton_problem() or _first_launch()
    if problem:
        logging.getLogger(__name__).warning("%s: the slower operators of torch are used", problem)
    return not problem


class Tables(NamedTuple):
    """A plan on the device: ``regions`` [regions, 14] and ``programs`` [programs, 2], both int64."""

    regions: Tensor
    programs: Tensor


def tile_regions(regions: np.ndarray) -> np.ndarray:
    """Return the (region, tile) of each program that copies these regions [regions, 14]."""
    counts = -(-regions[:, 6] // TILE[0]) * -(-regions[:, 7] // TILE[1])
    ends = np.cumsum(counts)
    region = np.repeat(np.arange(len(regions)), counts)
    return np.stack([region, np.arange(len(region)) - (ends - counts)[region]], axis=1)


def upload(regions: np.ndarray, device: torch.device) -> Tables:
    """Copy the tables of a plan to the device, without waiting for it."""
    programs = tile_regions(regions)
    size = regions.size
    host = torch.empty(size + programs.size, dtype=torch.int64, pin_memory=device.type == "cuda")
    host[:size].numpy()[:] = regions.ravel()
    host[size:].numpy()[:] = programs.ravel()
    table = host.to(device, non_blocking=True)
    return Tables(table[:size].view(-1, len(COLUMNS)), table[size:].view(-1, 2))


def pack(sources: Sequence[Tensor], tables: Tables, tensors: Sequence[Tensor]) -> None:
    """Copy each region from its source to its tensor, and convert it to the dtype of the tensor.

    Args:
        sources: Contiguous fp32 tensors.
        tables: See ``upload``.
        tensors: Contiguous, fp32 or one other dtype. Elements outside of all regions do not change.
    """
    OPS.pack.default(sources, tables.regions, tables.programs, tensors)


def scatter(tensors: Sequence[Tensor | None], tables: Tables, sources: Sequence[Tensor]) -> None:
    """Add each region of a tensor to its source, in fp32: the transpose of ``pack``.

    Kernels add with atomic operations. The result is deterministic if at most two regions reach an element of a zeroed
    source.

    Args:
        tensors: As for ``pack``. None is skipped.
        tables: See ``upload``.
        sources: Contiguous fp32 tensors.
    """
    OPS.scatter.default(tensors, tables.regions, tables.programs, sources)


def add_norm(x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, dim: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return ``x + y`` and its LayerNorm over the first ``dim`` channels, [S, ..., D] each. Other channels become 0.

    Args:
        x: Input [S, ..., D]. D is a multiple of 8 on CUDA.
        y: Input [S, ..., D], or None: return x itself and its norm.
        weight: Scale [S, D], fp32.
        bias: Shift [S, D], fp32.
        dim: Width without padding.
        eps: Added to the variance.
    """
    if y is None:
        return x, OPS.norm.default(x, weight, bias, dim, eps)
    return OPS.add_norm.default(x, y, weight, bias, dim, eps)


def add_norm_backward(
    total: Tensor, weight: Tensor, grad_normed: Tensor, grad_total: Tensor | None, dim: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the gradient [S, ..., D] of ``x`` and ``y``, and parts [P, 2, S, D] of those of ``weight`` and ``bias``.

    Args:
        total: First output of ``add_norm``.
        weight: Scale [S, D], fp32.
        grad_normed: Gradient [S, ..., D] of the second output.
        grad_total: Gradient [S, ..., D] of the first output.
        dim: As for ``add_norm``.
        eps: As for ``add_norm``.

    Returns:
        The gradient in the dtype of ``total``, and fp32 parts whose sum over P is the gradient of weight and bias.
    """
    return OPS.add_norm_backward.default(total, weight, grad_normed, grad_total, dim, eps)


# Launches of the kernels, on CUDA or in Triton's interpreter. The arguments are those of the operators below.


def launch_pack(sources: Sequence[Tensor], regions: Tensor, programs: Tensor, tensors: Sequence[Tensor]) -> None:
    """Launch ``pack``."""
    _launch_copy(sources, tensors, regions, programs, scatter=False)


def launch_scatter(
    tensors: Sequence[Tensor | None], regions: Tensor, programs: Tensor, sources: Sequence[Tensor]
) -> None:
    """Launch ``scatter``."""
    _launch_copy(sources, tensors, regions, programs, scatter=True)


def _launch_copy(
    sources: Sequence[Tensor], tensors: Sequence[Tensor | None], regions: Tensor, programs: Tensor, scatter: bool
) -> None:
    from vitas_ds.models import kernels_triton

    if not len(programs):
        return
    dtypes = {t.dtype for t in tensors if t is not None} - {torch.float32}
    assert len(dtypes) <= 1 and all(t is None or t.is_contiguous() for t in tensors)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in sources)
    addresses = [t.data_ptr() for t in sources]
    addresses += [0 if t is None else t.data_ptr() + (t.dtype == torch.float32) for t in tensors]
    cuda = regions.device.type == "cuda"
    table = torch.tensor(addresses, dtype=torch.int64, pin_memory=cuda).to(regions.device, non_blocking=True)
    with torch.cuda.device_of(regions):  # Triton launches on the current device
        kernels_triton.copy_kernel[(len(programs),)](
            regions, programs, table, len(sources),
            HALF=kernels_triton.DTYPES[dtypes.pop() if dtypes else torch.bfloat16], SCATTER=scatter,
            ROWS=TILE[0], COLUMNS=TILE[1],
        )  # fmt: skip


def launch_add_norm(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, dim: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Launch ``add_norm``."""
    from vitas_ds.models import kernels_triton

    sides, rows, width = _shape(x)
    x, y = x.contiguous(), None if y is None else y.contiguous()
    total, normed = None if y is None else torch.empty_like(x), torch.empty_like(x)
    tile = _norm_tile(width)
    with torch.cuda.device_of(x):
        kernels_triton.norm_kernel[(-(-rows // tile[0]), sides)](
            x, y, weight, bias, total, normed, rows, width // 8, dim, eps, *tile
        )
    return x if total is None else total, normed


def launch_norm(x: Tensor, weight: Tensor, bias: Tensor, dim: int, eps: float) -> Tensor:
    """Launch ``add_norm`` without ``y``."""
    return launch_add_norm(x, None, weight, bias, dim, eps)[1]


def launch_add_norm_backward(
    total: Tensor, weight: Tensor, grad_normed: Tensor, grad_total: Tensor | None, dim: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Launch ``add_norm_backward``."""
    from vitas_ds.models import kernels_triton

    sides, rows, width = _shape(total)
    grad, partial = _empty_gradients(total)
    grad_total = None if grad_total is None else grad_total.contiguous()
    with torch.cuda.device_of(total):
        kernels_triton.norm_backward_kernel[(len(partial), sides)](
            total.contiguous(), weight, grad_normed.contiguous(), grad_total, grad, partial,
            rows, width // 8, dim, eps, *_norm_tile(width),
        )  # fmt: skip
    return grad, partial


def _shape(x: Tensor) -> tuple[int, int, int]:
    """Return S, R and D of a tensor [S, ..., D]."""
    return len(x), math.prod(x.shape[1:-1]), x.shape[-1]


def _empty(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _norm_tile(width: int) -> tuple[int, int]:
    """Return rows and columns of the tile normalized by one program."""
    assert width % 8 == 0, width
    columns = 1 << (width - 1).bit_length()
    return max(NORM_TILE // columns, 1), columns


def _empty_gradients(total: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of ``add_norm_backward``. The number of parts depends only on the shape, as does their sum."""
    sides, rows, width = _shape(total)
    programs = min(NORM_PROGRAMS // sides, -(-rows // _norm_tile(width)[0]))
    return _empty(total), total.new_empty((programs, 2, sides, width), dtype=torch.float32)


# Shapes of the results


def _shape_norm(x: Tensor, *_: object) -> Tensor:
    return _empty(x)


def _shape_add_norm(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _empty(x), _empty(x)


def _shape_add_norm_backward(total: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _empty_gradients(total)


def _no_result(*_: object) -> None:
    pass


# The low-level interface of torch: its ``custom_op`` takes several times longer per call.
_LIBRARY = library.Library("vitas_ds", "DEF")
_NORM = "Tensor weight, Tensor bias, int dim, float eps"
for _schema, _cuda, _cpu, _meta in (
    (
        "pack(Tensor[] sources, Tensor regions, Tensor programs, Tensor(a!)[] tensors) -> ()",
        launch_pack, reference.pack, _no_result,
    ),
    (
        "scatter(Tensor?[] tensors, Tensor regions, Tensor programs, Tensor(a!)[] sources) -> ()",
        launch_scatter, reference.scatter, _no_result,
    ),
    (f"norm(Tensor x, {_NORM}) -> Tensor", launch_norm, reference.norm, _shape_norm),
    (
        f"add_norm(Tensor x, Tensor y, {_NORM}) -> (Tensor, Tensor)",
        launch_add_norm, reference.add_norm, _shape_add_norm,
    ),
    (
        "add_norm_backward(Tensor total, Tensor weight, Tensor grad_normed, Tensor? grad_total, int dim, float eps)"
        " -> (Tensor, Tensor)",
        launch_add_norm_backward, reference.add_norm_backward, _shape_add_norm_backward,
    ),
):  # fmt: skip
    _name = _LIBRARY.define(_schema)
    _LIBRARY.impl(_name, _cuda, "CUDA")
    _LIBRARY.impl(_name, _cpu, "CPU")
    _LIBRARY.impl(_name, _meta, "Meta")
OPS = torch.ops.vitas_ds

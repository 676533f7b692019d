"""Random inputs of the Triton kernels, and a process that runs the kernels on CPU tensors, in Triton's interpreter."""
# S sides, R rows of a side, D padded width

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from vitas_ds.models import kernels

NUM_SOURCES, NUM_TENSORS = 3, 4


def _run(call: bytes) -> bytes:
    function, args = pickle.loads(call)
    result = function(*args)
    return pickle.dumps((result, args))


@contextmanager
def interpreter() -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Yield a function that calls another function in the interpreter. It returns the result and the changed arguments.

    Triton reads TRITON_INTERPRET when it is imported, so this needs a new process.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
            pool.submit(os.getpid).result()
        yield lambda function, *args: pickle.loads(pool.submit(_run, pickle.dumps((function, args))).result())


def with_few_programs(launch: Callable[..., Any], *args: Any) -> Any:
    """Launch a kernel whose programs have to process several blocks each, as with many rows."""
    with mock.patch.object(kernels, "NORM_PROGRAMS", 4):
        return launch(*args)


@dataclass
class CopyCase:
    """Regions [regions, 14], and the sizes of their sources and tensors."""

    regions: np.ndarray
    source_sizes: list[int]
    tensor_sizes: list[int]

    def sources(self, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(size, generator=generator) for size in self.source_sizes]

    def tensors(self, half: torch.dtype, seed: int = 1) -> list[Tensor]:
        """Return tensors of which every second has dtype ``half``."""
        generator = torch.Generator().manual_seed(seed)
        random = [torch.randn(size, generator=generator) for size in self.tensor_sizes]
        return [t.to(half) if i % 2 else t for i, t in enumerate(random)]

    def elements(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield (source, index, tensor, index) of each element, straight from the definition of the table."""
        for region in self.regions.tolist():
            source, source_offset, source_stride, tensor, tensor_offset, tensor_stride, rows, columns, *_ = region
            for r, c in product(range(rows), range(columns)):
                row, column = _padded(r, *region[8:11]), _padded(c, *region[11:])
                yield (
                    source,
                    source_offset + r * source_stride + c,
                    tensor,
                    tensor_offset + row * tensor_stride + column,
                )


def _padded(index: int, period: int, gap: int, phase: int) -> int:
    return index + (index + phase) // period * gap


def copy_case(seed: int, matrices: int = 3, rows: int = 20, columns: int = 300) -> CopyCase:
    """Return random matrices with two sides. The sides overlap in the source, so two regions reach some elements."""
    rng = np.random.default_rng(seed)
    regions, source_sizes, tensor_sizes = [], [1] * NUM_SOURCES, [1] * NUM_TENSORS
    for _ in range(matrices):
        source, tensor = rng.integers(NUM_SOURCES), rng.integers(NUM_TENSORS)
        size = rng.integers(1, rows + 1), rng.integers(1, columns + 1)
        source_stride = size[1] + rng.integers(0, 40)
        for _side in range(2):
            axes = [_random_axis(rng), _random_axis(rng)]
            height, width = (_padded(n - 1, *axis) + 1 for n, axis in zip(size, axes, strict=True))
            tensor_stride = width + rng.integers(0, 9)
            source_offset = source_sizes[source] + rng.integers(0, 40)
            in_tensor = tensor, tensor_sizes[tensor], tensor_stride
            regions.append((source, source_offset, source_stride, *in_tensor, *size, *axes[0], *axes[1]))
            tensor_sizes[tensor] += height * tensor_stride + rng.integers(0, 5)
        source_sizes[source] += size[0] * source_stride + 40
    return CopyCase(np.array(regions, np.int64), [int(n) for n in source_sizes], [int(n) for n in tensor_sizes])


def _random_axis(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return period, gap and phase: of heads, or of an axis without padding."""
    if rng.integers(2):
        return 2**30, 0, 0
    period = rng.integers(1, 40)
    return period, rng.integers(1, 8), rng.integers(0, period)


@dataclass
class NormCase:
    """Inputs [S, R, D] and weights [S, D] of a norm over the first ``dim`` channels, and gradients of its outputs."""

    x: Tensor
    y: Tensor
    grad_total: Tensor
    grad_normed: Tensor
    weight: Tensor
    bias: Tensor
    dim: int

    def to(self, device: torch.device, dtype: torch.dtype) -> NormCase:
        tensors = (t.to(device, dtype) for t in (self.x, self.y, self.grad_total, self.grad_normed))
        return NormCase(*tensors, self.weight.to(device), self.bias.to(device), self.dim)


def norm_case(sides: int, rows: int, width: int, dim: int) -> NormCase:
    """Return random inputs whose padding is 0."""
    generator = torch.Generator().manual_seed(rows * width + dim)
    tensors = [torch.randn(sides, rows, width, generator=generator) for _ in range(4)]
    tensors += [torch.randn(sides, width, generator=generator) for _ in range(2)]
    for t in tensors:
        t[..., dim:] = 0
    return NormCase(*tensors, dim)

"""Count operator calls, bytes, unaligned matrix products, and waits of the host for the device."""
# M rows, K inner dimension, N columns

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FREE = {"_unsafe_view", "_reshape_alias", "detach", "lift_fresh", "empty", "empty_like", "new_empty", "empty_strided",
        "new_empty_strided", "_has_compatible_shallow_copy_type"}  # fmt: skip
WRITE_ONLY = {"copy_", "zero_", "fill_"}  # in-place operators that do not read their result
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim"}  # wait for the device
READING_METHODS = {Tensor.tolist, Tensor.cpu, Tensor.numpy}


def name_of(func: Any) -> str:
    """Return the name of an operator, without namespace for ATen's."""
    return func._schema.name.removeprefix("aten::")


def is_call(func: Any) -> bool:
    """Return whether an operator runs a kernel."""
    return not (func.namespace == "prim" or func.is_view or name_of(func) in FREE)


def tensors_in(values: Any) -> list[Tensor]:
    """Return the tensors in nested containers."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def bytes_of(tensors: list[Tensor]) -> int:
    """Return the bytes in memory of tensors. An expanded dimension counts once."""
    return sum(
        t.element_size() * math.prod(n for n, stride in zip(t.shape, t.stride(), strict=True) if stride)
        for t in tensors
    )  # fmt: skip


class CallCounter(TorchDispatchMode):
    """Counts the calls in its context.

    Attributes:
        calls: Calls of each operator.
        bytes: Bytes that all calls read and write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes, self.waits, self._flops = 0, 0, Counter[bool]()

    @property
    def unaligned_flops(self) -> float:
        """Fraction of the FLOPs of half-precision products with an unaligned dimension or row."""
        return self._flops[True] / max(1, self._flops.total())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if is_call(func):
            name = name_of(func)
            self.calls[name] += 1
            self.waits += name in READS
            self.bytes += bytes_of(_inputs(func, args, kwargs)) + bytes_of(tensors_in(result))
            if name in PRODUCTS:
                self._count_product(args[-2:], result)
        return result

    def _count_product(self, factors: tuple[Tensor, Tensor], result: Tensor) -> None:
        a, b = factors
        if a.element_size() == 2:
            rows = [max(t.stride()[-2:]) for t in (a, b, result)]
            unaligned = any(size % 8 for size in (a.shape[-1], b.shape[-1], *rows))
            self._flops[unaligned] += 2 * a.numel() * b.shape[-1]


def _inputs(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the input tensors of a call."""
    arguments = [*zip(func._schema.arguments, args, strict=False)]
    arguments += [(a, kwargs[a.name]) for a in func._schema.arguments if a.name in kwargs]
    write_only = name_of(func) in WRITE_ONLY
    return tensors_in([
        value for argument, value in arguments
        if not (argument.alias_info and argument.alias_info.is_write and (write_only or argument.is_out))
    ])  # fmt: skip


class WaitCounter(TorchFunctionMode):
    """Counts calls of functions that wait for the device or copy from pageable host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.transfers: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READING_METHODS:
            self.transfers["read"] += 1
        elif func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            self.transfers["copy"] += 1
        return func(*args, **kwargs)

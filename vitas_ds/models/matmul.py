"""Matrix products: oneDNN for fp32 on CPUs, the default of torch otherwise."""
# M rows, K inner dimension, N columns

from __future__ import annotations

import functools
import math
import time

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

_HAS_ONEDNN = torch.backends.mkldnn.is_available()
_HAS_BF16 = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def uses_onednn(x: Tensor) -> bool:
    """Return whether products with ``x`` use oneDNN: fp32 on a CPU, unless ``torch.backends.mkldnn`` is disabled.

    torch uses MKL for these products. On some CPUs MKL is half as fast, and the last bit of its result depends on the
    memory address of the matrix. Compiled and exported networks keep the public operators of torch.
    """
    if not _HAS_ONEDNN or not torch.backends.mkldnn.enabled or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32


@functools.cache
def onednn_is_faster() -> bool:
    """Measure once whether the fp32 product of oneDNN is clearly faster than that of MKL on this CPU.

    This takes 50 ms of thread time, which excludes other processes. The ratio is 0.9 to 1.0 on some CPUs and about 2 on
    others. The threshold is between the two, where noise cannot decide: a resumed run must be bitwise equal.
    """
    a, times = torch.ones(256, 256), dict[str, float]()
    kernels = {"onednn": lambda: torch.ops.mkldnn._linear_pointwise(a, a, None, "none", [], ""), "mkl": lambda: a @ a}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(30):
        for name, kernel in kernels.items():
            start = time.thread_time()
            kernel()
            times[name] = min(time.thread_time() - start, times.get(name, math.inf))
    torch.set_num_threads(threads)
    return times["mkl"] > 1.4 * times["onednn"]


def _uses_linear(x: Tensor, bias: Tensor | None) -> bool:
    """Return whether oneDNN adds the bias: in bf16, torch would copy it to each row before the product."""
    if bias is None or not _HAS_BF16 or not torch.backends.mkldnn.enabled or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.dtype == bias.dtype == torch.bfloat16


def product(
    a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None, gradient: bool = False
) -> Tensor:
    """Compute ``a [M, K] @ b [K, N] + bias [N]``.

    Args:
        a: Contiguous, or the transpose of a contiguous tensor: oneDNN is slow on slices.
        b: Like ``a``.
        bias: Added to each row.
        out: Memory for the result; oneDNN allocates its own.
        gradient: The product is a gradient. Its last bit does not matter, and the faster library computes it.
    """
    if _uses_linear(a, bias) or (uses_onednn(a) and not (gradient and not onednn_is_faster())):
        y = torch.ops.mkldnn._linear_pointwise(a, b.mT, bias, "none", [], "")
        return y
    if bias is None:
        return torch.mm(a, b, out=out)
    return torch.addmm(bias, a, b, out=out)


if _HAS_ONEDNN:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _flops(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
        """Count FLOPs as torch does for its own products."""
        return 2 * x.numel() * weight[0]

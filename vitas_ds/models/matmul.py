"""Matrix products: fp32 on a CPU goes to oneDNN, the rest to torch's own choice."""
# M, K, N rows, inner and columns

from __future__ import annotations

import functools
import math
import time

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

_HAS_ONEDNN = torch.backends.mkldnn.is_available()


def by_onednn(x: Tensor) -> bool:
    """Whether products with ``x`` go to oneDNN: fp32 on a CPU, unless ``torch.backends.mkldnn`` is switched off.

    torch has MKL do them, at half the speed on some CPUs, and with a last bit that depends on where in memory a matrix
    begins. What is compiled or exported keeps torch's public operators.
    """
    if not _HAS_ONEDNN or not torch.backends.mkldnn.enabled or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" and x.dtype == torch.float32


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN's fp32 product beats MKL's on this CPU by so much that no noise decides it: measured once.

    50 ms of this thread's own time, so that other processes do not count. Ratios are 0.9 to 1.0 on some CPUs and about
    2 on others; the limit between them must not be met by chance: a run that goes on has to have the same bits.
    """
    a, times = torch.ones(256, 256), dict[str, float]()
    ways = {"onednn": lambda: torch.ops.mkldnn._linear_pointwise(a, a, None, "none", [], ""), "mkl": lambda: a @ a}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(30):
        for name, way in ways.items():
            begin = time.thread_time()
            way()
            times[name] = min(time.thread_time() - begin, times.get(name, math.inf))
    torch.set_num_threads(threads)
    return times["mkl"] > 1.4 * times["onednn"]


def product(
    a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None, gradient: bool = False
) -> Tensor:
    """``a [M, K] @ b [K, N] + bias [N]``. Each is contiguous or the transpose of what is: oneDNN is slow on slices.

    Of a ``gradient`` the last bit matters to nobody, so that it goes to the faster of the two.
    """
    if by_onednn(a) and not (gradient and not onednn_is_faster()):
        y = torch.ops.mkldnn._linear_pointwise(a, b.mT, bias, "none", [], "")
        return y if out is None else out.copy_(y)
    if bias is None:
        return torch.mm(a, b, out=out)
    return torch.addmm(bias, a, b, out=out)


if _HAS_ONEDNN:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _flops(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
        """As torch counts its own products."""
        return 2 * x.numel() * weight[0]

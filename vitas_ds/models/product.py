"""Matrix products: fp32 on a CPU goes to oneDNN, the rest to torch's own choice."""
# M, K, N rows, inner and columns

from __future__ import annotations

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


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """``a [M, K] @ b [K, N] + bias [N]``. Each is contiguous or the transpose of what is: oneDNN is slow on slices."""
    if by_onednn(a):
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

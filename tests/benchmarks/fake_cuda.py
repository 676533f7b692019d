"""Run code as on a GPU, without one: fake tensors for which Python code sees ``cuda`` as their device.

torch cannot backpropagate through fake CUDA tensors without a driver. In ``fake_cuda()``, tensors are therefore fake
CPU tensors, and only code outside of torch sees a CUDA device. The differences between CPU and CUDA are emulated:

- Autocast runs norms and softmax in fp32.
- Attention is the flash kernel, with heads padded to a multiple of 8 channels.
- A device argument ``cuda`` is replaced. Tensors created without it stay on the host: moving them is a call.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
FACTORIES = {
    torch.tensor,
    torch.as_tensor,
    torch.from_numpy,
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.arange,
}
FP32_FUNCTIONS = {F.layer_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax}  # in CUDA's autocast


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Create tensors as fake CUDA tensors, in this context only."""
    real = {name: getattr(torch, name) for name in ("autocast", "is_autocast_enabled", "get_autocast_dtype")}
    with contextlib.ExitStack() as stack:
        for name, function in real.items():
            stack.enter_context(mock.patch.object(torch, name, _on_cpu(function)))
        device = FakeTensor.device.fget
        stack.enter_context(mock.patch.object(FakeTensor, "device", _seen(device, CUDA)))
        stack.enter_context(mock.patch.object(FakeTensor, "is_cuda", _seen(lambda x: False, True), create=True))
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        emulation = stack.enter_context(_Emulation())
        backward = BackwardCFunction.apply

        def emulated_backward(*args: Any) -> Any:
            with emulation:  # torch leaves function modes in the backward pass
                return backward(*args)

        stack.enter_context(mock.patch.object(BackwardCFunction, "apply", emulated_backward))
        yield mode


def to_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers of a model by fake tensors. Models that compute at construction need this."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                tensors[name] = None if tensor is None else mode.from_tensor(tensor)


def _seen(inside: Any, outside: Any) -> property:
    """Return a property with one value for torch's own code and another one for all other code."""

    def get(self: FakeTensor) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        in_torch = caller.split(".")[0] in ("torch", "") or getattr(self, "on_host", False)
        return inside(self) if in_torch else outside

    return property(get)


def _on_cpu(function: Any) -> Any:
    """Replace the device in the arguments of ``function``."""
    return lambda *args, **kwargs: function(*_to_cpu(args), **_to_cpu(kwargs))


def _to_cpu(arguments: Any) -> Any:
    return tree_map(lambda a: (CPU.type if isinstance(a, str) else CPU) if _is_cuda(a) else a, arguments)


def _is_cuda(argument: Any) -> bool:
    return argument == "cuda" if isinstance(argument, str) else getattr(argument, "type", None) == "cuda"


class _Emulation(TorchFunctionMode):
    """Compute each function of torch as on CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.numpy:  # to be written to: a fake tensor has no values
            return np.empty(args[0].shape)
        on_cuda = any(_is_cuda(a) for a in (*args, *kwargs.values()))
        args, kwargs = _to_cpu(args), _to_cpu(kwargs)
        if func is Tensor.to and on_cuda and getattr(args[0], "on_host", False):
            return args[0].clone()
        if func is F.scaled_dot_product_attention:
            return _flash_attention(*args, **kwargs)
        if func in FP32_FUNCTIONS and torch.is_autocast_enabled("cpu"):
            args = tree_map(lambda a: a.float() if isinstance(a, Tensor) else a, args)
        pinned = kwargs.pop("pin_memory", False)
        result = func(*args, **kwargs)
        if isinstance(result, FakeTensor) and (pinned or (func in FACTORIES and not on_cuda)):
            result.on_host = True  # type: ignore[attr-defined]
        return result


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **rest: Any) -> Tensor:
    """Issue the calls of torch's attention on CUDA in half precision: pad the heads, run flash attention, slice."""
    assert not any(rest.values()), rest
    width = q.shape[-1]
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
    if width % 8:
        q, k, v = (F.pad(x, (0, -width % 8)) for x in (q, k, v))
    out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale or width**-0.5)[0]
    return out[..., :width] if width % 8 else out

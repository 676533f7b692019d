"""Numeric precision: autocast, the fp16 loss scale, TF32 and deterministic kernels.

Weights, gradients, moments and averaged weights are always fp32. With bf16 or fp16, matrix products and convolutions
of the forward and backward pass are computed in that type (torch.autocast). ZeRO therefore sees an fp32 network, and a
checkpoint contains the exact weights. Scoring and evaluation use bf16 on GPUs that support it.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from vitas_ds import config
from vitas_ds.errors import UserError
from vitas_ds.models import kernels

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context of a precision (disabled for fp32)."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def check(engine: config.Engine, device: torch.device) -> None:
    """Check that the device supports ``engine.precision``.

    Raises:
        UserError: fp16 on a CPU, or bf16 on a GPU without bf16.
    """
    if engine.precision == "fp16" and device.type == "cpu":
        raise UserError("engine.precision: fp16 needs a GPU; allowed on CPU: fp32, bf16")
    if engine.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(f"engine.precision: {torch.cuda.get_device_name(device)} has no bf16; allowed: fp32, fp16")


def fast_precision(device: torch.device, otherwise: str) -> str:
    """Return bf16 on GPUs with bf16 support."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else otherwise


def compiles_network(engine: config.Engine, device: torch.device, zero3: bool = False) -> bool:
    """Return whether ``engine.compile`` compiles a fixed network as a whole. ZeRO 3 gathers it layer by layer."""
    return engine.compile is True or (engine.compile == "auto" and device.type == "cuda" and not zero3)


def set_backends(engine: config.Engine) -> None:
    """Set TF32, convolution autotuning, attention kernels and deterministic kernels for the whole process.

    Without ``engine.deterministic``, the backward pass of attention on a GPU uses atomic adds in varying order.
    """
    kernels.select(engine.kernels)
    torch.set_float32_matmul_precision("high" if engine.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = engine.tf32
    torch.backends.cudnn.benchmark = not engine.deterministic
    if engine.deterministic:
        # cuBLAS reads this when it creates its workspace. Without it, torch refuses matrix products on a GPU.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if engine.deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports the compiler: seconds
        torch.use_deterministic_algorithms(engine.deterministic)
    # cuDNN attention builds a plan for each new shape, which takes longer than a step of a subnet. Subnets have many
    # shapes. The other kernels need no plan.
    torch.backends.cuda.enable_cudnn_sdp(False)


class LossScale:
    """Dynamic loss scale for fp16 (arXiv 1710.03740, section 3.2); constant 1 in other precisions.

    Halved after a step with a non-finite gradient (which is skipped), doubled after 2000 finite steps in a row.
    """

    GROWTH_EVERY = 2000

    def __init__(self, precision: str) -> None:
        self.dynamic = precision == "fp16"
        self.value = 2.0**16 if self.dynamic else 1.0
        self.good_steps = 0

    def update(self, finite: bool) -> None:
        """Adapt the scale after a step."""
        if not self.dynamic:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.good_steps == self.GROWTH_EVERY:
            self.value, self.good_steps = self.value * 2, 0

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"value": self.value, "good_steps": self.good_steps, "dynamic": self.dynamic}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore ``state()``. If the checkpoint was saved in another precision, keep the initial scale."""
        if self.dynamic and state.get("dynamic", state["value"] > 1):  # checkpoints of 0.1 do not have it
            self.value, self.good_steps = state["value"], state["good_steps"]

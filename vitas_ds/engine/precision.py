"""Arithmetic: autocast, fp16's loss scale, TF32.

Weights, gradients, moments and averages are fp32 whatever the precision; bf16 and fp16 are what matrix products and
convolutions of the forward and backward pass compute in (torch.autocast). So ZeRO sees an fp32 network, a checkpoint
holds the exact weights, and training and scoring compute alike. Evaluation is in fp32 (on CUDA with TF32 as set).
"""

from __future__ import annotations

import os
from typing import Any

import torch

from vitas_ds import config
from vitas_ds.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context in which a network computes in ``precision`` (fp32: as it is)."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def check(engine: config.Engine, device: torch.device) -> None:
    """Raise ``UserError`` if the device cannot compute in this precision."""
    if engine.precision == "fp16" and device.type == "cpu":
        raise UserError("engine.precision: fp16 needs a GPU; allowed on CPU: fp32, bf16")
    if engine.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(f"engine.precision: {torch.cuda.get_device_name(device)} has no bf16; allowed: fp32, fp16")


def set_backends(engine: config.Engine) -> None:
    """TF32, the choice of convolution algorithms and deterministic kernels, for the whole process.

    Without ``engine.deterministic`` the backward pass of attention adds with atomics on a GPU, in varying order.
    """
    torch.set_float32_matmul_precision("high" if engine.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = engine.tf32
    torch.backends.cudnn.benchmark = not engine.deterministic
    if engine.deterministic:
        # cuBLAS reads it when it makes its workspace; without it torch refuses matrix products on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(engine.deterministic)


class LossScale:
    """The factor on an fp16 loss that keeps small gradients above zero; 1 in other precisions.

    Halved by a step whose gradient was not finite (that step is skipped), doubled after 2000 good ones in a row
    (arXiv 1710.03740, section 3.2).
    """

    GROWTH_EVERY = 2000

    def __init__(self, precision: str) -> None:
        self.dynamic = precision == "fp16"
        self.value = 2.0**16 if self.dynamic else 1.0
        self.good_steps = 0

    def update(self, finite: bool) -> None:
        """Learn from a step."""
        if not self.dynamic:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.good_steps == self.GROWTH_EVERY:
            self.value, self.good_steps = self.value * 2, 0

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"value": self.value, "good_steps": self.good_steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Take ``state()`` back; another precision than the one saved starts afresh."""
        if self.dynamic and state["value"] > 1:
            self.value, self.good_steps = state["value"], state["good_steps"]

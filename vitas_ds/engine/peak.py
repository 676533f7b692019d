"""Peak speed of GPUs, for the model FLOPs utilization (MFU) of a training step."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.spec import SubnetSpec

FLOPS_PER_MAC = 6  # of a training step: 2 in the forward pass, 4 in the backward pass

# Dense bf16 FLOPs per second with fp32 accumulation, from the vendor's data sheets. The first name that matches counts.
PEAKS = (
    ("RTX 4090 Laptop", None), ("RTX 4090 D", None),
    ("A100", 312e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989.4e12),
    ("H200 NVL", 835e12), ("H200", 989.4e12), ("B200", 2250e12), ("L40S", 362e12), ("RTX 4090", 165.2e12),
)  # fmt: skip


def peak_flops(card: str) -> float | None:
    """Return the peak of a card, or None if it is not in ``PEAKS``.

    Args:
        card: Name of the card as ``torch.cuda.get_device_name`` returns it.
    """
    name = re.sub(r"\bG([BH]200)\b", r"\1", card)
    return next((peak for part, peak in PEAKS if re.search(rf"\b{part}\b", name)), None)  # not A1000 for A100


def device_peak(device: torch.device) -> float | None:
    """Return the peak of a device; None for a CPU or an unknown card."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def training_flops(specs: Sequence[SubnetSpec], sides: int, images: int, teacher_macs: int = 0) -> float:
    """Return the FLOPs of a training step: ``sides`` passes of each network, and one of the teacher, for each image."""
    return float(images * (FLOPS_PER_MAC * sides * sum(spec_macs(spec) for spec in specs) + 2 * teacher_macs))

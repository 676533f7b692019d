"""Peak speed by card name, and the FLOPs of a step against torch's counter."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.engine.peak import device_peak, peak_flops, training_flops
from vitas_ds.models.vit import VisionTransformer


@pytest.mark.parametrize(
    "card, teraflops",
    [
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4), ("NVIDIA H200 NVL", 835), ("NVIDIA B200", 2250), ("NVIDIA GB200", 2250),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA L40S", 362), ("NVIDIA GeForce RTX 4090", 165.2), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla T4", None), ("NVIDIA RTX A1000", None), ("NVIDIA RTX A1000 6GB Laptop GPU", None),
    ],
)  # fmt: skip
def test_peak_of_cards(card: str, teraflops: float | None) -> None:
    assert peak_flops(card) == (None if teraflops is None else pytest.approx(teraflops * 1e12))


def test_a_cpu_has_no_peak() -> None:
    assert device_peak(torch.device("cpu")) is None


def test_flops_of_a_step_are_those_that_torch_counts() -> None:
    """Except for the gradient of the images, which the backward pass does not compute. torch miscounts oneDNN's."""
    spec = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 64), LayerSpec(4, 48, 96)))
    net, images = VisionTransformer(spec), torch.randn(3, 3, 32, 32)
    with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as c:
        net(images).sum().backward()
    stem = 2 * 3 * 16 * 192 * 48
    assert c.get_total_flops() == training_flops([spec], 1, 3) - stem

"""Autocast and the loss scale.

References: torch's own dtypes and flags, and scales by hand.
"""

import torch

from vitas_ds import config
from vitas_ds.engine.precision import LossScale, autocast, compiles_network, fast_precision, set_backends


def test_autocast_computes_in_bf16_and_keeps_fp32_weights() -> None:
    linear = torch.nn.Linear(4, 4)
    with autocast("bf16", torch.device("cpu")):
        assert linear(torch.ones(1, 4)).dtype == torch.bfloat16
    with autocast("fp32", torch.device("cpu")):
        assert linear(torch.ones(1, 4)).dtype == torch.float32
    assert linear.weight.dtype == torch.float32


def test_loss_scale_halves_and_grows() -> None:
    scale = LossScale("fp16")
    start = scale.value
    scale.update(finite=False)
    assert scale.value == start / 2
    for _ in range(LossScale.GROWTH_EVERY - 1):
        scale.update(finite=True)
    assert scale.value == start / 2
    scale.update(finite=True)
    assert scale.value == start
    for _ in range(100):
        scale.update(finite=False)
    assert scale.value == 1


def test_loss_scale_is_restored() -> None:
    scale, other = LossScale("fp16"), LossScale("fp16")
    scale.update(finite=False)
    scale.update(finite=True)
    other.restore(scale.state())
    assert other.state() == scale.state()
    for _ in range(100):
        scale.update(finite=False)
    other.restore(scale.state())
    assert other.value == scale.value == 1  # not taken for that of another precision
    fresh = LossScale("fp16").state()
    other = LossScale("fp16")
    other.restore(LossScale("bf16").state())  # saved by a run in bf16
    assert other.state() == fresh


def test_other_precisions_have_no_loss_scale() -> None:
    scale = LossScale("bf16")
    scale.update(finite=False)
    assert scale.value == 1


def test_tf32_follows_the_config() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        set_backends(config.Engine(tf32=False))
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
        set_backends(config.Engine(tf32=True))
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_cudnn_attention_is_off() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        set_backends(config.Engine())
        assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_deterministic_follows_the_config() -> None:
    try:
        set_backends(config.Engine(deterministic=True))
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    finally:
        set_backends(config.Engine())
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark


def test_fixed_networks_are_compiled_on_gpus_unless_set() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert not compiles_network(config.Engine(), cpu) and compiles_network(config.Engine(), cuda)
    assert not compiles_network(config.Engine(), cuda, zero3=True)
    for choice in (True, False):
        assert compiles_network(config.Engine(compile=choice), cpu) is choice
    assert fast_precision(cpu, "fp32") == "fp32"

"""Devices of the tests in ``tests/gpu``: CUDA, and the CPU where a test is cheap, to try its logic without a GPU."""

from __future__ import annotations

import pytest
import torch

from vitas_ds.distributed.comm import Ranks

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_CUDA])]


def device_of(name: str) -> torch.device:
    """Return the CPU or the first GPU."""
    return torch.device("cuda", 0) if name == "cuda" else torch.device("cpu")


def one_rank(name: str) -> Ranks:
    """Return the only rank of a job, without a process group."""
    return Ranks(0, 1, 0, device_of(name))

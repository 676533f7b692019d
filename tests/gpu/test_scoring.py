"""Scores on a GPU: replayed as CUDA graphs, from images on the host and on the device, without waiting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.devices import DEVICES, NEEDS_CUDA, device_of
from tests.helpers.scorers import LABELS, PIXELS, SPECS, prepare, scorer, supernet
from vitas_ds.distributed.comm import Ranks
from vitas_ds.search.scoring import graphs
from vitas_ds.search.scoring.scorer import Scorer

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def exact_products():
    torch.set_float32_matmul_precision("highest")
    yield
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


def make(device: torch.device = CUDA, where: torch.device | None = None, **options) -> Scorer:
    """Return a scorer of 90 images in batches of 8: more full batches than a capture needs, and a smaller last one."""
    assert len(LABELS) // 8 > graphs.MIN_BATCHES and len(LABELS) % 8
    net, ranks = supernet("bilateral").to(device), Ranks(0, 1, 0, device)
    return Scorer(net, PIXELS.to(where or device), LABELS, prepare, np.arange(90), ranks, batch_size=8, **options)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_graphs_give_the_same_points_as_direct_calls(dtype):
    direct, replayed = make(autocast=dtype), make(autocast=dtype, cuda_graphs=True)
    for spec in SPECS:
        assert torch.equal(replayed.count(spec), direct.count(spec))


@pytest.mark.gpu
@NEEDS_CUDA
def test_images_on_the_host_give_the_same_points():
    device, host = make(), make(where=torch.device("cpu"))
    for spec in SPECS:
        assert torch.equal(host.count(spec), device.count(spec))


@pytest.mark.parametrize("device", DEVICES)
def test_points_match_the_cpu(device):
    """Except for images whose two best logits differ by rounding."""
    cpu = scorer()
    for spec in SPECS:
        found = replace(make(device_of(device)), order=cpu.order).count(spec).cpu()
        assert (found != cpu.count(spec)).sum() <= 2


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("where", [CUDA, torch.device("cpu")])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_scoring_does_not_wait_for_the_gpu(where, cuda_graphs):
    """torch raises an error at a synchronizing call. The first candidate fills caches."""
    use = make(where=where, cuda_graphs=cuda_graphs)
    expected = use.count(SPECS[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = use.count(SPECS[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)

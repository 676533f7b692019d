"""Latencies on a GPU: CUDA graphs compute the network, and a graph is not slower than eager torch.

Reference: the plain network in torch.
"""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tests.helpers.devices import DEVICES, NEEDS_CUDA, device_of
from vitas_ds.arch.cost import macs
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.config import Config, Search
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.search.latency.measure import current_setting, measure_latency
from vitas_ds.search.runtime import open_runtime
from vitas_ds.training import sampling

CUDA = torch.device("cuda", 0)
SPACE = SearchSpace(image_size=112, num_classes=13, depth=8, patch_sizes=(14, 16))
NETS = [sampling.draw(SPACE, 0, step, 0.3) for step in range(10)]


def runtime_of(name: str, precision: str = "bf16", device: torch.device = CUDA):
    return open_runtime(Config(search=Search(latency_runtime=name, latency_precision=precision)), device)


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-3), ("bf16", 5e-2)])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["torch", "cuda-graph"])
def test_a_runtime_computes_the_network(name, precision, atol, device):
    if (device, name) == ("cpu", "cuda-graph"):
        pytest.skip("CUDA graphs need a CUDA device")
    images = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    with torch.no_grad():
        expected = VisionTransformer(NETS[0]).eval()(images)
    torch.manual_seed(5)
    with runtime_of(name, precision, device_of(device)).prepare(NETS[0], images.to(device_of(device))) as forward:
        logits = forward().float().cpu()
    torch.testing.assert_close(logits, expected, rtol=0, atol=atol)


@pytest.mark.gpu
@NEEDS_CUDA
def test_a_graph_saves_host_time():
    graph, eager = (np.array([measure_latency(net, runtime_of(name), 1).seconds for net in NETS])
                    for name in ("cuda-graph", "torch"))  # fmt: skip
    assert (graph < eager * 1.1).all() and np.median(graph / eager) < 0.9


@pytest.mark.gpu
@NEEDS_CUDA
def test_the_ranking_of_two_measurements_agrees():
    first, second = (
        np.array([measure_latency(net, runtime_of("cuda-graph"), 128).seconds for net in NETS]) for _ in range(2)
    )
    assert spearmanr(first, second).statistic > 0.95
    assert spearmanr(first, macs(WidthTable.from_specs(NETS))).statistic > 0.5


@pytest.mark.gpu
@NEEDS_CUDA
def test_auto_is_a_graph():
    setting = current_setting(runtime_of("auto"), 8)
    assert setting["runtime"] == "cuda-graph" and setting["device"] == torch.cuda.get_device_name(CUDA)
    assert set(setting["versions"]) == {"torch", "cuda", "cudnn"} and setting["threads"] is None

"""The runtimes compute the network of the spec.

Reference: the plain network in torch.
"""

import pytest
import torch

from tests.helpers.searches import SMALL
from vitas_ds.arch import genome
from vitas_ds.config import Config, Search
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.search.latency.measure import current_setting, measure_latency
from vitas_ds.search.runtime import open_runtime

CPU = torch.device("cpu")
SPEC = genome.decode(SMALL, genome.smallest(SMALL)).canonical()


def config(**fields) -> Config:
    return Config(search=Search(**fields))


@pytest.mark.parametrize(
    ("fields", "atol"),
    [
        ({"latency_runtime": "torch", "latency_precision": "fp32"}, 0),
        ({"latency_runtime": "torch", "latency_precision": "bf16"}, 0.02),
        ({"latency_runtime": "onnxruntime"}, 1e-4),
    ],
)
def test_a_runtime_computes_the_network(fields, atol):
    if fields["latency_runtime"] == "onnxruntime":
        pytest.importorskip("onnxruntime")
    runtime, images = open_runtime(config(**fields), CPU), torch.randn(3, 3, 32, 32)
    torch.manual_seed(5)
    with torch.no_grad():
        expected = VisionTransformer(SPEC).eval()(images)
    torch.manual_seed(5)
    with runtime.prepare(SPEC, images) as forward:
        assert torch.allclose(forward().float(), expected, rtol=0, atol=atol)
    assert expected.std() > 0.1


def test_onnxruntime_measures_on_the_cpu():
    pytest.importorskip("onnxruntime")
    runtime = open_runtime(config(latency_runtime="onnxruntime"), torch.device("cuda"))  # without a GPU
    setting = current_setting(runtime, 2)
    assert set(setting["versions"]) == {"onnxruntime", "torch"} and setting["precision"] == "fp32"
    latency = measure_latency(SPEC, runtime, 2, max_seconds=0.2)
    assert latency.seconds > 0 and latency.runs >= 3 and setting["threads"] == torch.get_num_threads()


def test_a_table_replaces_the_runtime():
    assert open_runtime(config(latency_table="table.jsonl", latency_runtime="cuda-graph"), CPU) is None

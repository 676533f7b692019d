"""Run networks as they are deployed, to measure their latency: torch, CUDA graphs, or onnxruntime on the CPU."""
# B batch

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.engine.precision import autocast
from vitas_ds.export.to_onnx import trace, write_onnx
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.search.latency.limits import choose_runtime
from vitas_ds.search.latency.measure import Prepare, Runtime
from vitas_ds.search.scoring.graphs import cuda_capture

CPU = torch.device("cpu")
EAGER_RUNS = 3  # before a capture: they load kernels and create workspaces


def open_runtime(config: Config, device: torch.device) -> Runtime | None:
    """Return the runtime that ``search.latency_runtime`` names; None if ``search.latency_table`` replaces measurements.

    onnxruntime computes on the CPU, whatever the device of the search.

    Raises:
        UserError: The runtime is not installed, or does not support the device or the precision.
    """
    if config.search.latency_table:
        return None
    name, precision = choose_runtime(config.search, config.engine.precision, device.type)
    if name == "onnxruntime":
        versions = {"onnxruntime": metadata.version("onnxruntime"), "torch": torch.__version__}
        return Runtime(name, precision, CPU, versions, _onnxruntime(config.export.opset))
    prepare = _cuda_graph(precision) if name == "cuda-graph" else _torch(precision)
    return Runtime(name, precision, device, torch_versions(device), prepare)


def torch_versions(device: torch.device) -> dict[str, str]:
    """Return the versions that affect the latency of torch on a device."""
    if device.type != "cuda":
        return {"torch": torch.__version__}
    return {"torch": torch.__version__, "cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}


def _torch(precision: str) -> Prepare:
    @contextmanager
    def prepare(spec: SubnetSpec, images: Tensor) -> Iterator[Callable[[], Tensor]]:
        with torch.inference_mode(), autocast(precision, images.device):
            network = VisionTransformer(spec).to(images.device).eval().bind()
            yield lambda: network(images)

    return prepare


def _cuda_graph(precision: str) -> Prepare:
    @contextmanager
    def prepare(spec: SubnetSpec, images: Tensor) -> Iterator[Callable[[], Tensor]]:
        with _torch(precision)(spec, images) as forward:
            for _ in range(EAGER_RUNS):
                forward()
            torch.cuda.synchronize(images.device)
            # the graph owns its memory: it is released with the graph
            graph, logits = cuda_capture(None)(forward)

            def replay() -> Tensor:
                graph.replay()
                return logits

            yield replay

    return prepare


def _onnxruntime(opset: int) -> Prepare:
    @contextmanager
    def prepare(spec: SubnetSpec, images: Tensor) -> Iterator[Callable[[], Tensor]]:
        with tempfile.TemporaryDirectory() as folder:
            program = trace(VisionTransformer(spec).eval())
            network = write_onnx(program, Path(folder) / "model.onnx", opset)
        yield lambda: network(images)

    return prepare

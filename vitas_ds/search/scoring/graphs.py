"""Replay a function on batches as a CUDA graph: one call of the host instead of one for each kernel."""
# B batch

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

MIN_BATCHES = 6  # batches of one shape for which a capture pays: it costs about as much host time as two eager batches

Function = Callable[[Tensor, Tensor], Tensor]


def pays(setting: str | bool, batches: int) -> bool:
    """Return whether to capture a candidate: with ``auto`` from ``MIN_BATCHES`` on, with True from the second one."""
    return bool(setting) and batches >= (MIN_BATCHES if setting == "auto" else 2)


class Graph(Protocol):
    """A captured function: reads and writes fixed tensors."""

    def replay(self) -> None:
        """Compute the output again."""


Capture = Callable[[Callable[[], Tensor]], tuple[Graph, Tensor]]
"""Captures a function without arguments. Returns the graph and the tensor that each replay writes."""


class Replayed:
    """A function of two batches [B, ...], captured at its second call and replayed from then on.

    The first call runs it directly, which also loads kernels and fills caches: a capture must not do that. A batch of
    another size runs directly. The result of a call is overwritten by the next one.

    Args:
        function: The function. It must neither wait for the device nor copy from host memory after its first call.
        capture: Captures it.
    """

    def __init__(self, function: Function, capture: Capture) -> None:
        self.function, self.capture = function, capture
        self.shape: torch.Size | None = None
        self.inputs: tuple[Tensor, Tensor] | None = None
        self.graph: Graph | None = None
        self.output: Tensor | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the function of a batch."""
        if self.shape is None:
            self.shape = images.shape
            return self.function(images, labels)
        if images.shape != self.shape:
            return self.function(images, labels)
        if self.inputs is None:
            inputs = self.inputs = images.clone(), labels.clone()
            self.graph, self.output = self.capture(lambda: self.function(*inputs))
        self.inputs[0].copy_(images)
        self.inputs[1].copy_(labels)
        assert self.graph is not None and self.output is not None
        self.graph.replay()
        return self.output


def cuda_capture(pool: Any) -> Capture:
    """Return a function that captures on CUDA. Graphs can share a pool unless they are replayed at the same time."""

    def capture(function: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        # other threads (data, heartbeats) may call CUDA meanwhile
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = function()
        return graph, output

    return capture

"""Replayed batches: same results as direct calls, one capture, no capture for batches of another size.

The capture is a stand-in without CUDA: its graph calls the function again and copies the result into the same tensor.
tests/gpu captures for real.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitas_ds.search.scoring.graphs import MIN_BATCHES, Graph, Replayed, pays


@dataclass
class FakeGraph:
    function: Callable[[], Tensor]
    output: Tensor

    def replay(self) -> None:
        self.output.copy_(self.function())


@dataclass
class Recorder:
    """Counts direct calls and captures."""

    direct: list[int] = field(default_factory=list)
    captures: int = 0

    def function(self, images: Tensor, labels: Tensor) -> Tensor:
        self.direct.append(len(images))
        return (images.sum(1) == labels).long()

    def capture(self, function: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
        self.captures += 1
        output = torch.full_like(function(), -1)  # a capture computes nothing
        return FakeGraph(function, output), output


def test_replays_equal_direct_calls() -> None:
    recorder, reference = Recorder(), Recorder()
    replayed = Replayed(recorder.function, recorder.capture)
    for seed, size in enumerate([4, 4, 4, 3, 4]):
        generator = torch.Generator().manual_seed(seed)
        images, labels = (torch.randint(0, 2, shape, generator=generator) for shape in ((size, 2), (size,)))
        assert torch.equal(replayed(images, labels), reference.function(images, labels))
    assert recorder.captures == 1


def test_the_inputs_are_copied() -> None:
    """A replay reads the tensors of the capture: the caller's may be freed or changed."""
    recorder = Recorder()
    replayed = Replayed(recorder.function, recorder.capture)
    images, labels = torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 0])
    replayed(images, labels)
    assert replayed(images, labels).tolist() == [1, 0]
    images.zero_()
    assert replayed(torch.ones(2, 3, dtype=torch.long), labels).tolist() == [1, 0]


def test_when_a_capture_pays() -> None:
    """``auto`` needs enough batches; ``true`` captures whenever there is a second batch."""
    assert [pays("auto", n) for n in (1, 2, MIN_BATCHES - 1, MIN_BATCHES)] == [False, False, False, True]
    assert [pays(True, n) for n in (1, 2, MIN_BATCHES)] == [False, True, True]
    assert not pays(False, 100)

"""The number of operator calls of a step, and how often it waits for the device.

A step of a supernet is short, so a GPU would wait for the host that issues thousands of small calls. A flat toy of the
size of a supernet (84 parameters, of which a step uses 20) runs on the CPU. The calls that torch sees are the same as
on a GPU; only the copies to the host differ (``tolist`` is one there).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers import toy_supernet as toy
from vitas_ds import config
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine

WAITS = {"aten._local_scalar_dense.default", "aten.item.default", "aten.is_nonzero.default"}
UNITS, USED, WIDTH = 84, 20, 16


class Calls(TorchDispatchMode):
    """Counts the ATen calls that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> int:
        return sum(self.counts[name] for name in WAITS)


class Layers(nn.Module):
    """Many flat layers, of which a step uses some."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(toy.flatten(nn.Linear(WIDTH, WIDTH)) for _ in range(UNITS))

    def forward(self, x: Tensor, used: range) -> Tensor:
        for i in used:
            x = toy.call(self.layers[i], lambda t: nn.functional.linear(x, t["weight"], t["bias"]))  # noqa: B023
        return x


def calls_of_a_step(zero: str, **settings: Any) -> Calls:
    """Return the calls of the second step. The first one allocates."""
    model = Layers()
    units = {str(i): list(layer.parameters()) for i, layer in enumerate(model.layers)}
    training = config.Training(batch_size=2, **settings)
    ranks = comm.init("cpu", timeout=60)
    engine = Engine(model, units, config.Engine(zero=zero, precision="fp32"), training, ranks)
    for step in range(2):
        used = range(step, UNITS, UNITS // USED)[:USED]
        loss = engine(torch.ones(2, WIDTH), used).square().mean()
        engine.backward(loss)
        with Calls() as calls:
            norm, value = engine.step(set(map(str, used)), 1e-3, loss)
        assert value == float(loss.detach()) and norm > 0
    return calls


@pytest.mark.parametrize(
    ("zero", "limit", "waits"), [("zero0", 9, 0), ("zero1", 12, 0), ("zero2", 450, 3), ("zero3", 450, 4)]
)
def test_calls_of_a_step(zero: str, limit: int, waits: int) -> None:
    calls = calls_of_a_step(zero, clip_grad=1e-3)
    print(zero, calls.counts.total(), calls.waits, calls.counts)
    assert calls.counts.total() <= limit and calls.waits <= waits

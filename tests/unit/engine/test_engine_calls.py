"""The number of operator calls of a step, and how often it waits for the device.

A step of a supernet is short, so a GPU would wait for the host that issues thousands of small calls. A flat toy of the
size of a supernet (84 parameters, of which a step uses 20) runs on the CPU. The calls that torch sees are the same as
on a GPU; only the copies to the host differ (``tolist`` is one there).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers import toy_supernet as toy
from vitas_ds import config
from vitas_ds.data.reader import Batch
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import TrainingDir
from vitas_ds.training.task import Task
from vitas_ds.training.train_state import TrainState
from vitas_ds.training.trainer import Trainer

WAITS = {"aten._local_scalar_dense.default", "aten.item.default", "aten.is_nonzero.default"}
UNITS, USED, WIDTH = 84, 20, 16


class Calls(TorchDispatchMode):
    """Counts the ATen calls other than views."""

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
    ("zero", "limit", "waits"), [("zero0", 9, 0), ("zero1", 10, 0), ("zero2", 60, 2), ("zero3", 140, 1)]
)
def test_calls_of_a_step(zero: str, limit: int, waits: int) -> None:
    calls = calls_of_a_step(zero, clip_grad=1e-3)
    print(zero, calls.counts.total(), calls.waits, calls.counts)
    assert calls.counts.total() <= limit and calls.waits <= waits


def test_averaged_weights_are_one_call() -> None:
    calls = calls_of_a_step("zero0", clip_grad=1e-3, ema_decay=0.9)
    assert calls.counts.total() <= 10 and calls.counts["aten._foreach_lerp_.Scalar"] == 1


@pytest.mark.parametrize("zero", ["zero0", "zero1"])
def test_a_training_step_waits_once(zero: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixing, forward and backward pass, step, and the state of the loop: norm and loss are read in one transfer."""
    recipe = load("quickstart", ["supernet.grad_accum_steps=2", f"engine.zero={zero}", "engine.precision=fp32"])
    ranks, classes = comm.init("cpu", timeout=60), recipe.space.num_classes
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
    task = Task(
        "train-supernet", recipe, recipe.supernet, TrainingDir(tmp_path), model, {"all": list(model.parameters())},
        [None] * 1000,
        lambda call, images, targets, step: iter([nn.functional.cross_entropy(call(images), targets)]),
        lambda step: {"all"},
    )  # fmt: skip
    engine = Engine(model, task.units, recipe.engine, recipe.supernet, ranks)
    trainer = Trainer(task, ranks, engine, TrainState(), None, None)
    batch = Batch(torch.randn(4, 3, 4, 4), torch.randint(classes, (4,)), torch.arange(4))
    transfers: list[int] = []
    tolist = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: transfers.append(tensor.numel()) or tolist(tensor))
    for _ in range(2):
        transfers.clear()
        with Calls() as calls:
            norm, loss = trainer._train_step(batch, 1e-3)
            trainer._update_state(batch, loss, norm)
        assert calls.waits == 0 and transfers == [2]
    assert trainer.state.step == 2 and trainer.state.loss_sum > 0

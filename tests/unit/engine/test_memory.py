"""The memory estimate against the tensors of a real engine."""

from __future__ import annotations

import gc
from contextlib import suppress

import pytest
import torch
from torch import nn

from vitas_ds import config
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.engine.memory import Memory, estimate

TRAINING = config.Training(batch_size=64, ema_decay=0.9)


def storages() -> dict[int, torch.UntypedStorage]:
    """Storages of all CPU tensors, by address. Tensors that another test traced or compiled have none."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.device.type == "cpu":
            with suppress(RuntimeError):
                found[thing.untyped_storage().data_ptr()] = thing.untyped_storage()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("zero", ["zero0", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_weights_and_optimizer_states_between_steps(zero: str, ema: float) -> None:
    """One rank. Stage 3 also keeps its gradient buffers between steps."""
    ranks = comm.init("cpu", timeout=60)
    settings, training = config.Engine(zero=zero, precision="fp32"), config.Training(batch_size=2, ema_decay=ema)
    before = storages()  # DeepSpeed keeps the parameters of the last engine; this keeps them during the measurement
    model = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 500))
    params = sum(p.numel() for p in model.parameters())
    engine = Engine(model, {"all": list(model.parameters())}, settings, training, ranks)
    engine.backward(engine(torch.ones(2, 1000)).sum())
    engine.step({"all"}, 1e-3)
    estimated = estimate(settings, training, 1, params)
    new = sum(storage.nbytes() for address, storage in storages().items() if address not in before)
    measured = new - (4 * params + 4 * 50_000_000 if zero == "zero3" else 0)
    print(f"{zero} ema {ema}: estimated {estimated.weights + estimated.optimizer}, measured {measured}")
    assert measured == pytest.approx(estimated.weights + estimated.optimizer, rel=0.03)


def test_each_stage_shards_its_tensors_over_the_ranks() -> None:
    params = 50_000_000

    def of(zero: str, ranks: int) -> Memory:
        return estimate(config.Engine(zero=zero), TRAINING, ranks, params)

    assert of("zero0", 64).optimizer == of("zero0", 1).optimizer
    assert of("zero0", 64).gradients == 2 * of("zero0", 1).gradients == 8 * params  # with the copy for the reduction
    assert of("zero1", 64).weights == of("zero1", 1).weights == 4 * params
    assert of("zero1", 64).optimizer == of("zero1", 1).optimizer / 64
    assert of("zero3", 64).weights == 4 * params / 64
    sharded = [of(zero, 64).total for zero in ("zero1", "zero2", "zero3")]
    assert sharded == sorted(sharded, reverse=True)
    assert of("zero2_offload", 8).optimizer == 0 < of("zero2_offload", 8).host
    assert of("zero1", 8).host == 0


def test_activations_of_one_micro_batch() -> None:
    training = config.Training(batch_size=64, grad_accum_steps=2)
    fp32 = estimate(config.Engine(precision="fp32"), training, 4, 1000, activations=100)
    assert fp32.activations == 8 * 100
    assert estimate(config.Engine(), training, 4, 1000, activations=100).activations == 4 * 100
    assert fp32.to_dict()["total"] == fp32.total

"""The per-unit AdamW against torch.optim.AdamW, on tensors laid out as ZeRO lays them out; the learning rate."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from vitas_ds import config
from vitas_ds.engine.optimizer import Piece, UnitAdamW, cosine_lr, decay_groups

TRAINING = config.Training(betas=(0.8, 0.99))


def test_a_flat_tensor_steps_unit_by_unit() -> None:
    """Three units in one flat tensor, as one rank's partition; each against its own torch optimizer."""
    torch.manual_seed(0)
    sizes = {"a": 7, "b": 33, "c": 5}
    flat = torch.nn.Parameter(torch.randn(sum(sizes.values()) + 3))  # three of padding
    pieces, offset = [], 0
    for unit, size in sizes.items():
        cut = size // 2  # a unit is often several parameters
        pieces += [Piece(f"{unit}1", unit, 0, offset, cut), Piece(f"{unit}2", unit, 4, offset + cut, size - cut)]
        offset += size
    optimizer = UnitAdamW([{"params": [flat], "weight_decay": 0.1}], sizes, TRAINING)
    optimizer.own({flat: pieces})
    twins = {
        u: torch.nn.Parameter(t.clone()) for u, t in zip(sizes, flat.detach().split([*sizes.values(), 3]), strict=False)
    }
    adamw = {u: torch.optim.AdamW([t], betas=TRAINING.betas, weight_decay=0.1) for u, t in twins.items()}
    used = [("a", "b"), ("b",), (), ("c", "a"), ("b", "c"), ("a", "b", "c")]
    for step, units in enumerate(used):
        grad = torch.randn(flat.shape, generator=torch.Generator().manual_seed(step))
        before, flat.grad = flat.detach().clone(), grad.clone()
        optimizer.set_lr(0.1 / (1 + step))
        optimizer.begin(units)
        optimizer.step()
        parts = zip(sizes, *(t.split([*sizes.values(), 3]) for t in (grad, flat.detach(), before)), strict=False)
        for unit, part, now, then in parts:
            if unit in units:
                twins[unit].grad = part.clone()
                adamw[unit].param_groups[0]["lr"] = 0.1 / (1 + step)
                adamw[unit].step()
                torch.testing.assert_close(now, twins[unit].detach(), rtol=0, atol=1e-6)
            else:
                assert torch.equal(now, then), (step, unit)
        assert torch.equal(flat[-3:], before[-3:])
    assert optimizer.steps == {"a": 3, "b": 4, "c": 3}


def test_a_step_taken_back_leaves_the_clocks() -> None:
    optimizer = UnitAdamW([{"params": [torch.nn.Parameter(torch.ones(2))]}], ["a", "b"], TRAINING)
    optimizer.begin(["a"])
    optimizer.undo()
    assert optimizer.steps == {"a": 0, "b": 0} and not optimizer.active


def test_an_unknown_unit_is_an_error() -> None:
    optimizer = UnitAdamW([{"params": [torch.nn.Parameter(torch.ones(2))]}], ["a"], TRAINING)
    with pytest.raises(KeyError):
        optimizer.begin(["stem"])


def test_vectors_have_no_decay() -> None:
    linear, norm = torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)
    groups = decay_groups({"a": list(linear.parameters()), "b": list(norm.parameters())}, 0.05)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.05), (3, 0.0)]
    assert groups[0]["params"][0] is linear.weight
    assert len(decay_groups({"b": list(norm.parameters())}, 0.05)) == 1


def test_learning_rate() -> None:
    training = config.Training(epochs=10, warmup_epochs=2, lr=1.0, min_lr=0.1)
    lr = [cosine_lr(training, step, 50) for step in range(501)]
    assert lr[0] == 0
    assert lr[50] == pytest.approx(0.5)
    assert lr[100] == pytest.approx(1.0) == max(lr)
    assert lr[300] == pytest.approx(0.55)
    assert lr[500] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(lr[100:]))
    assert cosine_lr(training, 10_000, 50) == pytest.approx(0.1)


def test_learning_rate_against_torch() -> None:
    training = config.Training(epochs=4, warmup_epochs=0, lr=0.3, min_lr=0.02)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.02)
    for step in range(40):
        assert math.isclose(cosine_lr(training, step, 10), schedule.get_last_lr()[0], rel_tol=1e-6)
        optimizer.step()
        schedule.step()


def test_warm_up_longer_than_training_does_not_divide_by_zero() -> None:
    training = config.Training(epochs=1, warmup_epochs=5, lr=1.0)
    assert cosine_lr(training, 5, 10) == pytest.approx(0.1)
    assert cosine_lr(config.Training(epochs=2, warmup_epochs=2, lr=1.0), 20, 10) == pytest.approx(1.0)

"""The per-unit AdamW against torch.optim.AdamW, on tensors in the layout of ZeRO."""

from __future__ import annotations

import pytest
import torch

from vitas_ds import config
from vitas_ds.engine.optimizer import Piece, UnitAdamW, decay_groups

TRAINING = config.Training(betas=(0.8, 0.99))


def test_a_flat_tensor_steps_unit_by_unit() -> None:
    """Three units in one flat tensor, as in the partition of one rank; each against its own torch optimizer."""
    torch.manual_seed(0)
    sizes = {"a": 7, "b": 33, "c": 5}
    flat = torch.nn.Parameter(torch.randn(sum(sizes.values()) + 3))  # 3 elements of padding
    pieces, offset = [], 0
    for unit, size in sizes.items():
        cut = size // 2  # a unit often has several parameters
        pieces += [Piece(f"{unit}1", unit, 0, offset, cut), Piece(f"{unit}2", unit, 4, offset + cut, size - cut)]
        offset += size
    optimizer = UnitAdamW([{"params": [flat], "weight_decay": 0.1}], sizes, TRAINING)
    optimizer.set_layout({flat: pieces})
    twins = {
        u: torch.nn.Parameter(t.clone()) for u, t in zip(sizes, flat.detach().split([*sizes.values(), 3]), strict=False)
    }
    adamw = {u: torch.optim.AdamW([t], betas=TRAINING.betas, weight_decay=0.1) for u, t in twins.items()}
    used = [("a", "b"), ("b",), (), ("c", "a"), ("b", "c"), ("a", "b", "c")]
    for step, units in enumerate(used):
        grad = torch.randn(flat.shape, generator=torch.Generator().manual_seed(step))
        before, flat.grad = flat.detach().clone(), grad.clone()
        optimizer.set_lr(0.1 / (1 + step))
        optimizer.start_step(units)
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


def test_a_reverted_step_does_not_count() -> None:
    optimizer = UnitAdamW([{"params": [torch.nn.Parameter(torch.ones(2))]}], ["a", "b"], TRAINING)
    optimizer.start_step(["a"])
    optimizer.revert_step()
    assert optimizer.steps == {"a": 0, "b": 0} and not optimizer.active


def test_an_unknown_unit_is_an_error() -> None:
    optimizer = UnitAdamW([{"params": [torch.nn.Parameter(torch.ones(2))]}], ["a"], TRAINING)
    with pytest.raises(KeyError):
        optimizer.start_step(["stem"])


def test_vectors_have_no_decay() -> None:
    linear, norm = torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)
    groups = decay_groups({"a": list(linear.parameters()), "b": list(norm.parameters())}, 0.05)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.05), (3, 0.0)]
    assert groups[0]["params"][0] is linear.weight
    assert len(decay_groups({"b": list(norm.parameters())}, 0.05)) == 1

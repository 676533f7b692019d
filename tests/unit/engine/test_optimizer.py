"""The per-unit AdamW against torch.optim.AdamW, on tensors in the layout of ZeRO."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vitas_ds import config
from vitas_ds.engine.optimizer import Piece, UnitAdamW, whole_pieces
from vitas_ds.models.flat import FlatModule, Place, tensor_places

TRAINING = config.Training(betas=(0.8, 0.99))


def test_a_flat_tensor_steps_unit_by_unit() -> None:
    """Three units in one flat tensor, as in the partition of one rank; each against its own torch optimizer."""
    torch.manual_seed(0)
    sizes = {"a": 7, "b": 33, "c": 5}
    flat = nn.Parameter(torch.randn(sum(sizes.values()) + 3))  # 3 elements of padding
    pieces, offset = [], 0
    for unit, size in sizes.items():
        cut = size // 2  # a unit often has several parameters
        matrix = Place(flat, 0, (1, size))
        pieces += [
            Piece(f"{unit}1", unit, matrix, 0, offset, cut),
            Piece(f"{unit}2", unit, matrix, 4, offset + cut, size - cut),
        ]
        offset += size
    optimizer = UnitAdamW([flat], sizes, TRAINING.model_copy(update={"weight_decay": 0.1}))
    optimizer.set_layout({flat: pieces}, whole_gradients=False)
    twins = {u: nn.Parameter(t.clone()) for u, t in zip(sizes, flat.detach().split([*sizes.values(), 3]), strict=False)}
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


def test_tensors_have_their_own_learning_rate() -> None:
    """A matrix and a vector of each of three layers in one flat tensor, against the groups of torch.optim.AdamW."""
    torch.manual_seed(0)
    flat, scales = nn.Parameter(torch.randn(60)), (0.25, 0.5, 1.0)
    pieces, twins, offset = [], [], 0
    for scale in scales:
        for shape in ((3, 5), (5,)):
            length = torch.Size(shape).numel()
            pieces.append(Piece(f"{offset}", "all", Place(flat, offset, shape), 0, offset, length, scale))
            twins.append(nn.Parameter(flat.detach()[offset : offset + length].clone()))
            offset += length
    optimizer = UnitAdamW([flat], ["all"], TRAINING.model_copy(update={"weight_decay": 0.1}))
    optimizer.set_layout({flat: pieces}, whole_gradients=False)
    groups = [
        {"params": [twin], "lr": 0.1 * piece.lr_scale, "weight_decay": 0.1 * piece.decay}
        for twin, piece in zip(twins, pieces, strict=True)
    ]
    adamw = torch.optim.AdamW(groups, betas=TRAINING.betas)
    for step in range(3):
        flat.grad = torch.randn(60, generator=torch.Generator().manual_seed(step))
        for twin, piece in zip(twins, pieces, strict=True):
            twin.grad = flat.grad[piece.offset : piece.offset + piece.length].clone()
        optimizer.set_lr(0.1)
        optimizer.start_step(["all"])
        optimizer.step()
        adamw.step()
    torch.testing.assert_close(flat.detach(), torch.cat([twin.detach() for twin in twins]), rtol=0, atol=1e-6)


def test_a_reverted_step_does_not_count() -> None:
    optimizer = UnitAdamW([nn.Parameter(torch.ones(2))], ["a", "b"], TRAINING)
    optimizer.start_step(["a"])
    optimizer.revert_step()
    assert optimizer.steps == {"a": 0, "b": 0} and not optimizer.active


def test_an_unknown_unit_is_an_error() -> None:
    optimizer = UnitAdamW([nn.Parameter(torch.ones(2))], ["a"], TRAINING)
    with pytest.raises(KeyError):
        optimizer.start_step(["stem"])


def test_vectors_have_no_decay() -> None:
    """A gradient of zero: only the weight decay moves the weights. Matrices come first in a flat parameter."""
    linear, flat = nn.Linear(3, 2), FlatModule()
    flat.add_flat("all", {"bias": (2,), "weight": (2, 3)})
    nn.init.ones_(flat.all)
    net = nn.ModuleDict({"linear": linear, "flat": flat})
    units = {"a": list(linear.parameters()), "b": list(flat.parameters())}
    whole = whole_pieces(tensor_places(net), units)
    assert [(piece.name, piece.decay) for piece in whole[flat.all]] == [("flat.weight", True), ("flat.bias", False)]
    optimizer = UnitAdamW(net.parameters(), units, TRAINING.model_copy(update={"weight_decay": 0.5}))
    optimizer.set_layout(whole, whole_gradients=True)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.set_lr(0.1)
    optimizer.start_step(units)
    optimizer.step()
    torch.testing.assert_close(linear.weight, before["linear.weight"] * 0.95)
    assert torch.equal(linear.bias, before["linear.bias"])
    torch.testing.assert_close(flat.all, torch.tensor([0.95] * 6 + [1.0] * 2))


def test_the_tensors_must_fill_their_parameter() -> None:
    p = nn.Parameter(torch.ones(4))
    with pytest.raises(AssertionError, match="do not fill"):
        whole_pieces({"a": Place(p, 0, (3,))}, {"unit": [p]})

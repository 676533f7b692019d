"""The learning rate schedule by hand, and against torch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from vitas_ds import config
from vitas_ds.training.schedule import cosine_lr


def test_warm_up_then_cosine() -> None:
    training = config.Training(epochs=10, warmup_epochs=2, lr=1.0, min_lr=0.1)
    lr = [cosine_lr(training, step, 50) for step in range(501)]
    assert lr[0] == 0
    assert lr[50] == pytest.approx(0.5)
    assert lr[100] == pytest.approx(1.0) == max(lr)
    assert lr[300] == pytest.approx(0.55)
    assert lr[500] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(lr[100:]))
    assert cosine_lr(training, 10_000, 50) == pytest.approx(0.1)


def test_equals_torch_without_warm_up() -> None:
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

"""Losses of a supernet step against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitas_ds.training import losses


@pytest.mark.parametrize("soft", [False, True])
def test_losses_equal_plain_torch(soft: bool) -> None:
    torch.manual_seed(0)
    left, right = torch.randn(2, 6, 5).unbind()
    targets = torch.randn(6, 5).softmax(-1) if soft else torch.randint(5, (6,))
    both = torch.stack([left, right])
    expected = F.cross_entropy(left + right, targets)
    torch.testing.assert_close(losses.cross_entropy(both, targets, "logit_sum"), expected)
    mean = (F.cross_entropy(left, targets) + F.cross_entropy(right, targets)) / 2
    torch.testing.assert_close(losses.cross_entropy(both, targets, "loss_mean"), mean)
    for objective in ("logit_sum", "loss_mean"):
        one = losses.cross_entropy(left[None], targets, objective)
        torch.testing.assert_close(one, F.cross_entropy(left, targets))


def test_the_loss_of_bf16_logits_is_computed_in_float32() -> None:
    logits = torch.randn(2, 4, 10).bfloat16()
    assert losses.cross_entropy(logits, torch.randint(10, (4,)), "logit_sum").dtype == torch.float32


@pytest.mark.parametrize("objective", ["logit_sum", "loss_mean"])
def test_distillation_is_kl_plus_the_entropy_of_the_teacher_which_gets_no_gradient(objective: str) -> None:
    torch.manual_seed(1)
    student = torch.randn(2, 6, 5, requires_grad=True)
    teacher = torch.randn(2, 6, 5, requires_grad=True)
    loss = losses.distill_loss(student, teacher, objective)
    s, t = (student.sum(0), teacher.sum(0)) if objective == "logit_sum" else (student, teacher)
    probs = t.softmax(-1)
    entropy = -(probs * probs.log()).sum(-1).mean()
    kl = (probs * (probs.log() - s.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(loss, kl + entropy)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    same = losses.distill_loss(teacher.detach().requires_grad_(), teacher, objective)
    torch.testing.assert_close(same, entropy)

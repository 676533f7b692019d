"""Losses of a supernet step against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitas_ds.config import Teacher
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


def by_hand(student: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor, settings: Teacher) -> torch.Tensor:
    """Return the loss of one side in float64, as sums over images and classes."""
    s, y, t = student.double(), targets.double(), teacher.double()
    labels = -(y * s.log_softmax(-1)).sum() / len(s)
    if settings.kind == "hard":
        taught = -sum(s[i].log_softmax(-1)[t[i].argmax()] for i in range(len(s))) / len(s)
    else:
        T = settings.temperature
        p, q = (t / T).exp(), (s / T).exp()
        p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
        taught = T * T * (p * (p / q).log()).sum() / len(s)
    return (1 - settings.weight) * labels + settings.weight * taught


@pytest.mark.parametrize("settings", [
    Teacher(), Teacher(weight=0.9, temperature=3.0), Teacher(weight=1.0, temperature=0.5),
    Teacher(kind="hard"), Teacher(kind="hard", weight=0.2),
])  # fmt: skip
def test_loss_with_a_teacher_by_hand(settings: Teacher) -> None:
    torch.manual_seed(2)
    left, right, teacher = 3 * torch.randn(3, 6, 5)
    targets = torch.randn(6, 5).softmax(-1)
    both = torch.stack([left, right])
    summed = losses.loss_with_teacher(both, targets, teacher, "logit_sum", settings)
    torch.testing.assert_close(summed, by_hand(left + right, targets, teacher, settings).float())
    sides = [by_hand(side, targets, teacher, settings) for side in (left, right)]
    mean = losses.loss_with_teacher(both, targets, teacher, "loss_mean", settings)
    torch.testing.assert_close(mean, (sum(sides) / 2).float())
    for objective in ("logit_sum", "loss_mean"):
        one = losses.loss_with_teacher(left[None], targets, teacher, objective, settings)
        torch.testing.assert_close(one, sides[0].float())


def test_the_teacher_gets_no_gradient_and_class_indices_are_labels_too() -> None:
    torch.manual_seed(3)
    student = torch.randn(1, 6, 5, requires_grad=True)
    teacher = torch.randn(6, 5, requires_grad=True)
    labels = torch.randint(5, (6,))
    loss = losses.loss_with_teacher(student, labels, teacher, "logit_sum", Teacher(temperature=2.0))
    torch.testing.assert_close(
        loss.double(), by_hand(student[0], F.one_hot(labels, 5), teacher, Teacher(temperature=2.0))
    )
    loss.backward()
    assert teacher.grad is None
    # d KL / d logits = (q - p) / T per image, times T^2; d cross entropy / d logits = q1 - y
    p, q, q1 = (teacher / 2).softmax(-1), (student[0] / 2).softmax(-1), student[0].softmax(-1)
    torch.testing.assert_close(student.grad[0], (2 * (q - p) + q1 - F.one_hot(labels, 5)) / 2 / 6)


def test_a_student_equal_to_its_teacher_has_only_the_loss_of_the_labels() -> None:
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    settings = Teacher(weight=0.25, temperature=4.0)
    loss = losses.loss_with_teacher(logits[None], labels, logits, "logit_sum", settings)
    torch.testing.assert_close(loss, 0.75 * F.cross_entropy(logits, labels))

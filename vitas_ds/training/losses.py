"""Losses of a training step.

The sides of a bilateral supernet can be trained on their summed logits or each on its own. In-place distillation
(arXiv 1903.05134) trains the smaller subnets of the sandwich rule on the outputs of the largest one. With a teacher, a
network learns the outputs of another, trained network in addition to the labels.
"""
# S sides, B batch, C classes

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vitas_ds.config import Teacher


def cross_entropy(logits: Tensor, targets: Tensor, objective: str) -> Tensor:
    """Return the cross entropy over all sides, a scalar.

    Args:
        logits: [S, B, C].
        targets: Class indices [B] or probabilities [B, C].
        objective: ``logit_sum`` is the loss of the summed logits (first release of ViTAS), ``loss_mean`` the mean of
            the losses of the sides (BCNet). They are equal for one side.
    """
    logits = _combine(logits, objective)
    targets = targets.expand(len(logits), *targets.shape)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


def distill_loss(logits: Tensor, teacher: Tensor, objective: str) -> Tensor:
    """Return the cross entropy with the softmax of the teacher's logits, a scalar. The teacher gets no gradient.

    Args:
        logits: [S, B, C].
        teacher: Logits [S, B, C] of the teacher.
        objective: ``logit_sum`` compares the summed logits, ``loss_mean`` each side with the teacher's same side.
    """
    probs = _combine(teacher.detach(), objective).softmax(-1)
    return F.cross_entropy(_combine(logits, objective).flatten(0, 1), probs.flatten(0, 1))


def loss_with_teacher(
    logits: Tensor, targets: Tensor, teacher: Tensor, objective: str, settings: Teacher,
    token: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return ``(1 - weight) * cross entropy + weight * loss of the teacher's outputs``, a scalar.

    ``soft`` (arXiv 1503.02531) is ``T^2 * KL(teacher || student)`` of the probabilities at temperature T; T^2 keeps the
    size of its gradient. ``hard`` (arXiv 2012.12877, section 4) is the cross entropy with the teacher's best class.

    Args:
        logits: [S, B, C].
        targets: See ``cross_entropy``.
        teacher: Logits [B, C] of the teacher for the same images. It gets no gradient.
        objective: See ``cross_entropy``; ``loss_mean`` compares each side with the teacher.
        settings: Kind, weight and temperature.
        token: Logits [S, B, C] of the classifier that reads the distillation token, and learns from the teacher alone
            (arXiv 2012.12877, section 4); None: ``logits`` learn from both.
    """
    student = _combine(logits if token is None else token, objective)
    expected = teacher.detach().float().expand_as(student).flatten(0, 1)
    if settings.kind == "hard":
        taught = F.cross_entropy(student.flatten(0, 1), expected.argmax(-1))
    else:
        T = settings.temperature
        log_probs, expected_log_probs = ((x / T).log_softmax(-1) for x in (student.flatten(0, 1), expected))
        taught = T**2 * F.kl_div(log_probs, expected_log_probs, reduction="batchmean", log_target=True)
    return (1 - settings.weight) * cross_entropy(logits, targets, objective) + settings.weight * taught


def _combine(logits: Tensor, objective: str) -> Tensor:
    """Return the logits to score in float32: their sum over the sides [1, B, C], or [S, B, C]."""
    logits = logits.float()
    return logits.sum(0, keepdim=True) if objective == "logit_sum" else logits

"""Losses of a supernet step.

The sides of a bilateral supernet can be trained on their summed logits or each on its own. In-place distillation
(arXiv 1903.05134) trains the smaller subnets of the sandwich rule on the outputs of the largest one.
"""
# S sides, B batch, C classes

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


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


def _combine(logits: Tensor, objective: str) -> Tensor:
    """Return the logits to score in float32: their sum over the sides [1, B, C], or [S, B, C]."""
    logits = logits.float()
    return logits.sum(0, keepdim=True) if objective == "logit_sum" else logits

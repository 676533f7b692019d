"""The training rules of a supernet: which nets a step trains, and the losses they learn from.

- ``single``: one random net a step, single-path (ViTAS, arXiv 2106.13700; AutoSlim, arXiv 1903.11728).
- ``sandwich``: the largest net, the smallest, and some random ones (arXiv 1903.05134), optionally with
  in-place distillation: the smaller nets learn the largest one's outputs (same paper).
- ``complementary`` (the stochastic complementary strategy of BCNet, arXiv 2105.10533; the index form below is **our
  reading**): every second step trains the complement of the random nets of the step before.

All are functions of (seed, step) alone: every rank draws the same nets without talking, and resuming needs no state.
"""
# S sides, B batch, C classes

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def loss_of(logits: Tensor, targets: Tensor, objective: str) -> Tensor:
    """Cross entropy of ``logits [S, B, C]`` with ``targets``, class indices [B] or probabilities [B, C]: a scalar.

    ``logit_sum``: one loss of the sides' summed logits (first release of ViTAS). ``loss_mean``: the mean of the sides'
    losses (BCNet). They are the same where there is one side.
    """
    logits = _joined(logits, objective)
    targets = targets.expand(len(logits), *targets.shape)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


def distill_loss(logits: Tensor, teacher: Tensor, objective: str) -> Tensor:
    """In-place distillation: cross entropy of ``logits [S, B, C]`` with the softmax of ``teacher [S, B, C]``: a scalar.

    No gradient reaches the teacher. ``logit_sum`` compares the summed logits, ``loss_mean`` each side with the
    teacher's same side.
    """
    probs = _joined(teacher.detach(), objective).softmax(-1)
    return F.cross_entropy(_joined(logits, objective).flatten(0, 1), probs.flatten(0, 1))


def _joined(logits: Tensor, objective: str) -> Tensor:
    """What is scored, in float32: [1, B, C], the sum over sides, or [S, B, C]."""
    logits = logits.float()
    return logits.sum(0, keepdim=True) if objective == "logit_sum" else logits

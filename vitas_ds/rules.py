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

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from vitas_ds import config, genome, sampling
from vitas_ds.space import SearchSpace
from vitas_ds.spec import SubnetSpec


def nets_of_step(
    space: SearchSpace, supernet: config.Supernet, seed: int, step: int, identity_prob: float | None
) -> list[SubnetSpec]:
    """The nets that an optimizer step trains, the same on every rank.

    ``rule: sandwich`` puts the largest net first, for it teaches the others, and the smallest last. Distinct steps draw
    independent nets, but for ``complementary``, where each odd step complements the even one before it.
    """
    count = 1 if supernet.rule == "single" else supernet.random_nets
    mirrored = supernet.complementary and step % 2 == 1
    nets = [sampling.draw(space, seed, step - mirrored, identity_prob, index) for index in range(count)]
    if mirrored:
        nets = [complement(space, net) for net in nets]
    if supernet.rule == "single":
        return nets
    return [genome.decode(space, genome.largest(space)), *nets, genome.decode(space, genome.smallest(space))]


def complement(space: SearchSpace, spec: SubnetSpec) -> SubnetSpec:
    """The net with each width's index i turned into last - i; patch, heads, identities and depth stay.

    With even ratios, the two widths add up to one step more than the full width. It is its own inverse.
    """

    def flip(width: int, widths: tuple[int, ...]) -> int:
        return widths[-1 - widths.index(width)]

    layers = tuple(
        layer
        and replace(layer, qkv_dim=flip(layer.qkv_dim, space.qkv_widths), mlp_dim=flip(layer.mlp_dim, space.mlp_widths))
        for layer in spec.layers
    )
    return replace(spec, embed_dim=flip(spec.embed_dim, space.embed_widths), layers=layers)


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

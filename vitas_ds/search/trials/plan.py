"""The plan of the finalists: rungs of successive halving, their cost, and who trains what.

Importing this module does not import torch.
"""
# K candidates, R rungs, G groups of ranks

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vitas_ds.config import Finalists, Training
from vitas_ds.errors import UserError

LAST = 2  # most candidates in the last rung
PASSES = 3  # cost of a training step in forward passes


@dataclass(frozen=True)
class Rung:
    """A rung of successive halving: ``nets`` candidates train to step ``steps``."""

    nets: int
    steps: int


def make_rungs(cfg: Finalists, candidates: int) -> list[Rung]:
    """Return the rungs for a number of candidates, shortest first.

    After each rung, the best ``ceil(keep * nets)`` go on, and at least one drops out. The last rung has at most two
    candidates and trains them to ``cfg.steps``; a rung is ``keep`` times as long as the next one.

    Raises:
        UserError: The first rungs would have no steps of their own.
    """
    nets = [min(cfg.count, candidates)]
    while nets[-1] > LAST:
        kept = math.ceil(cfg.keep * nets[-1] - 1e-9)  # 0.1 * 30 may be a little more than 3
        nets.append(min(max(kept, 1), nets[-1] - 1))
    steps = _lengths(cfg.steps, cfg.keep, len(nets))
    if not _increasing(steps):
        enough = _enough_steps(cfg.steps, cfg.keep, len(nets))
        raise UserError(
            f"search.finalists.steps: {cfg.steps} is too short for {len(nets)} rungs with keep={cfg.keep:g}; "
            f"use {enough} or more"
        )
    return [Rung(*pair) for pair in zip(nets, steps, strict=True)]


def count_trainings(cfg: Finalists, candidates: int) -> int:
    """Return the number of trainings over all rungs; 0 without finalists."""
    return sum(rung.nets for rung in make_rungs(cfg, candidates)) if cfg.count else 0


def _lengths(steps: int, keep: float, rungs: int) -> list[int]:
    return [round(steps * keep ** (rungs - 1 - i)) for i in range(rungs)]


def _enough_steps(steps: int, keep: float, rungs: int) -> int:
    """Return the smallest number above ``steps`` that gives each rung steps of its own."""
    low, high = steps, 2 * steps + 2
    while not _increasing(_lengths(high, keep, rungs)):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _increasing(_lengths(middle, keep, rungs)) else (middle, high)
    return high


def _increasing(steps: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise([0, *steps]))


def added_steps(rungs: Sequence[Rung]) -> list[int]:
    """Return the steps that each rung adds to the one before."""
    return [b - a for a, b in pairwise([0, *(rung.steps for rung in rungs)])]


def deal(costs: Sequence[float], groups: int) -> list[list[int]]:
    """Deal tasks to groups, to finish together: each, by decreasing cost, to the group with the least work.

    Returns:
        Indices of the tasks of each group, most expensive first.
    """
    dealt: list[list[int]] = [[] for _ in range(groups)]
    loads = [0.0] * groups
    for task in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        group = loads.index(min(loads))
        dealt[group].append(task)
        loads[group] += costs[task]
    return dealt


def work(macs: Sequence[int], steps: Sequence[int], groups: int) -> float:
    """Return the work until the last of ``groups`` groups finishes: MACs of a forward pass times steps, per rank share.

    Args:
        macs: MACs of each candidate.
        steps: Remaining steps of each candidate.
        groups: Number of groups; a group's work is divided among its ranks.
    """
    costs = [float(m * s) for m, s in zip(macs, steps, strict=True)]
    return max((sum(costs[i] for i in tasks) for tasks in deal(costs, groups)), default=0.0)


def training_macs(rungs: Sequence[Rung], macs: Sequence[int], batch_size: int) -> float:
    """Estimate the MACs of all trainings. Which candidates go on is unknown, so each rung has the mean MACs."""
    mean = sum(macs) / len(macs)
    steps = sum(rung.nets * added for rung, added in zip(rungs, added_steps(rungs), strict=True))
    return PASSES * mean * steps * batch_size


def retraining_macs(training: Training, images: int, macs: int) -> float:
    """Return the MACs of the stage retrain on ``images`` images."""
    return PASSES * macs * (images // training.batch_size) * training.epochs * training.batch_size


def describe(rungs: Sequence[Rung], total: float, share: float) -> str:
    """Return rungs and cost as one line.

    Args:
        rungs: The rungs.
        total: MACs of all trainings.
        share: ``total`` relative to one retraining.
    """
    first, *others = rungs
    parts = [f"{first.nets} candidates to step {first.steps:,}", *(f"{r.nets} to {r.steps:,}" for r in others)]
    return f"{', '.join(parts)}; about {total:.3g} MACs (3 x MACs x images), {share:.3g} times one retraining"

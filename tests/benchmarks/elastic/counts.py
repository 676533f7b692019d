"""Computation of each part of a method in multiply-accumulates (MACs), and the epochs that a sum pays for.

A forward pass counts once, a step of training three times, the teacher once for each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitas_ds.arch.cost import spec_macs
from vitas_ds.config import Config
from vitas_ds.config.limits import Limit, format_number
from vitas_ds.data.sampler import steps_per_epoch
from vitas_ds.search.scoring.ledger_reader import read_ledger
from vitas_ds.search.trials.plan import PASSES
from vitas_ds.training.subnets import subnet_sampler


def epoch_macs(macs: int, images: int, teacher: int = 0) -> int:
    """Count an epoch of training.

    Args:
        macs: Those of the network.
        images: Images of the epoch.
        teacher: MACs of the teacher; 0: none.
    """
    return images * (PASSES * macs + teacher)


def elastic_macs(config: Config, images: int, teacher: int) -> int:
    """Count elastic training: every subnet of every step, and the teacher."""
    supernet = config.supernet
    steps = supernet.epochs * steps_per_epoch(images, supernet.augment.aug_repeats, supernet.batch_size)
    subnets = subnet_sampler(config, None, images)
    trained = sum(spec_macs(spec) for step in range(steps) for spec in subnets(step))
    return supernet.batch_size * (PASSES * trained + steps * teacher)


def importance_macs(config: Config, images: int, macs: int) -> int:
    """Count the measurement of importance: a forward and a backward pass of every image."""
    return min(config.supernet.importance_images, images) * PASSES * macs


def score_macs(ledger: Path, limits: Sequence[Limit]) -> dict[str, int]:
    """Count the scores of a search, by budget. A candidate that was scored twice counts twice."""
    found = {format_number(limit.high): 0 for limit in limits}
    for candidate in read_ledger(ledger):
        macs = candidate.costs["macs"]
        limit = next(limit for limit in limits if limit.low <= macs <= limit.high)
        found[format_number(limit.high)] += macs * candidate.images
    return found


def affordable(total: int, epochs: Sequence[int]) -> list[int]:
    """Return how many epochs each network is trained, given what one epoch of each costs.

    All get the same number. What is left pays for one more epoch of the cheapest ones.
    """
    even, rest = divmod(total, sum(epochs))
    found = [even] * len(epochs)
    for i in sorted(range(len(epochs)), key=lambda i: epochs[i]):
        if epochs[i] <= rest:
            found[i] += 1
            rest -= epochs[i]
    return found

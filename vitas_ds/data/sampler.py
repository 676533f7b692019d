"""Which image comes when: a pure function of (seed, step), the same for any number of ranks, without state."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

ORDER = 0x0D3  # tag of the random stream that shuffles


def steps_per_epoch(n: int, views: int, global_batch: int) -> int:
    """Optimizer steps of an epoch: ``n // global_batch``, the last incomplete batch is dropped.

    With ``views`` > 1 an epoch is as long as without (as in DeiT, arXiv 2012.12877, 6): it shows 1 / views of the
    images, each ``views`` times, and ``views`` epochs in a row show each image. 0 where there are too few images.
    """
    return n // global_batch


@lru_cache(maxsize=4)
def _shuffled(n: int, seed: int, turn: int) -> np.ndarray:
    return np.random.default_rng([seed, ORDER, turn]).permutation(n)


def batch_ids(n: int, views: int, global_batch: int, seed: int, step: int) -> np.ndarray:
    """Indices [global_batch] of the images of global step ``step``.

    A full permutation serves ``views`` epochs. Each image stands in it ``views`` times in a row, so that its views
    meet in one batch, spread over it so that they meet on different ranks and mixing does not pair them.
    """
    steps = steps_per_epoch(n, views, global_batch)
    turn, step_of_turn = divmod(step, steps * views)
    slots = np.arange(step_of_turn * global_batch, (step_of_turn + 1) * global_batch)
    slots = np.concatenate([slots[first::views] for first in range(views)])
    return _shuffled(n, seed, turn)[slots // views]


def share(total: int, rank: int, world_size: int) -> slice:
    """The part of ``total`` items that is a rank's: contiguous, sizes differ by 1 at most, empty where too few."""
    return slice(total * rank // world_size, total * (rank + 1) // world_size)

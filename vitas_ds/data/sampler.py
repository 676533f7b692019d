"""Order of the images: a pure function of (seed, step), without state and independent of the number of ranks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

ORDER = 0x0D3  # tag of the random stream of the shuffle


def steps_per_epoch(n: int, views: int, global_batch: int) -> int:
    """Return the optimizer steps of an epoch, ``n // global_batch``: the last incomplete batch is dropped.

    ``views`` does not change the length of an epoch (as in DeiT, arXiv 2012.12877, section 6). With ``views`` > 1 an
    epoch shows 1 / ``views`` of the images, each ``views`` times; ``views`` consecutive epochs show every image. The
    result is 0 if there are fewer images than a global batch.
    """
    return n // global_batch


@lru_cache(maxsize=4)
def _shuffled(n: int, seed: int, cycle: int) -> np.ndarray:
    return np.random.default_rng([seed, ORDER, cycle]).permutation(n)


def batch_ids(n: int, views: int, global_batch: int, seed: int, step: int) -> np.ndarray:
    """Return the image indices [global_batch] of global step ``step``.

    One permutation serves a cycle of ``views`` epochs. The views of an image share a batch (or two, if ``views`` does
    not divide ``global_batch``), but are spread over it: they reach different ranks, and mixing does not pair them.
    """
    steps = steps_per_epoch(n, views, global_batch)
    cycle, step_of_cycle = divmod(step, steps * views)
    slots = np.arange(step_of_cycle * global_batch, (step_of_cycle + 1) * global_batch)
    slots = np.concatenate([slots[first::views] for first in range(views)])
    return _shuffled(n, seed, cycle)[slots // views]


def rank_slice(total: int, rank: int, world_size: int) -> slice:
    """Return a rank's contiguous part of ``total`` items. Sizes differ by at most 1; some are 0 if items are few."""
    return slice(total * rank // world_size, total * (rank + 1) // world_size)

"""Choose random subnets within a budget that cover its patch sizes, widths and depths."""

from __future__ import annotations

from collections import Counter

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.feasible.operators import sample_distinct
from vitas_ds.search.feasible.table import FeasibleSet

POOL = 256  # random subnets to choose from; constant, so more subnets include the fewer ones


def spread_subnets(feasible: FeasibleSet, count: int, seed: int) -> list[SubnetSpec]:
    """Return ``count`` distinct random subnets, fewer if the budget has fewer. A larger count adds to the same subnets.

    Each one has the least chosen patch size so far, and among these the embed_dim, then the depth.
    """
    rng = np.random.default_rng([seed, 0x59EAD])
    genomes = sample_distinct(feasible, max(POOL, count), rng)
    pool = [spec.canonical() for spec in genome.decode_all(feasible.space, genomes)]
    return choose_evenly(pool, count)


def choose_evenly(pool: list[SubnetSpec], count: int) -> list[SubnetSpec]:
    """Return ``count`` subnets of the pool, see ``spread_subnets``; ties go to the first in the pool."""
    rest, chosen = list(pool), list[SubnetSpec]()
    used: Counter[tuple[str, int]] = Counter()
    for _ in range(min(count, len(pool))):
        best = min(rest, key=lambda spec: [used[choice] for choice in _choices(spec)])
        rest.remove(best)
        chosen.append(best)
        used.update(_choices(best))
    return chosen


def _choices(spec: SubnetSpec) -> list[tuple[str, int]]:
    return [("patch", spec.patch_size), ("embed", spec.embed_dim), ("depth", spec.depth)]

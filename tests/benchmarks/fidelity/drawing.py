"""The subnets that a supernet trains in each step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from tests.benchmarks.fidelity import defects, study
from tests.benchmarks.fidelity.study import SPACE, Variant
from vitas_ds.arch import genome
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.training import sampling


def drawn(variant: Variant, seed: int) -> Iterator[list[SubnetSpec]]:
    """Yield the subnets of each step without end, drawn like in the product except for the changes of the variant."""
    space = SPACE.model_copy(update={"identity_shift": variant.deep_end})
    turns = np.zeros(len(SPACE.gene_sizes), np.int64)
    for step in count():
        nets = sampling.subnets_of_step(space, variant.supernet, seed, step, study.identity_prob())
        if variant.fair:
            nets = [_fair(net, seed, turns) for net in nets]
        if variant.defect == "widths":
            nets = [defects.misplaced(net, np.random.default_rng([seed, step])) for net in nets]
        yield nets


def _fair(net: SubnetSpec, seed: int, turns: np.ndarray) -> SubnetSpec:
    """Redraw the genes of a subnet such that a gene with k choices takes each of them once in k turns.

    The positions stay, and each k turns have a new random order. The genes of a skipped layer take no turn: otherwise
    choices that are not trained would count as trained. ``turns`` [genes] is updated in place.
    """
    genes, sizes, heads = genome.encode(SPACE, net), np.array(SPACE.gene_sizes), len(SPACE.num_heads)
    sizes[2::3] = heads  # identity takes no turn
    there = np.r_[True, True, np.repeat(genes[2::3] < heads, 3)]
    for i in np.flatnonzero(there):
        again, place = divmod(turns[i], sizes[i])
        genes[i] = np.random.default_rng([seed, i, again]).permutation(sizes[i])[place]
    turns += there
    return genome.decode(SPACE, genes)

"""The subnets of every step of the supernet's training, from its settings. Importing this module imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.data.sampler import steps_per_epoch
from vitas_ds.search.feasible.several import feasible_sets, reachable
from vitas_ds.search.feasible.table import FeasibleSet
from vitas_ds.training.opening import Open, all_choices, narrowed, open_choices
from vitas_ds.training.sampling import subnets_of_step


def subnet_sampler(config: Config, prob: float | None, images: int) -> Callable[[int], list[SubnetSpec]]:
    """Return a function from a step to its subnets.

    While choices open (``supernet.open``), a budget without any network in the open part of the space has no effect.

    Args:
        config: Configuration of the run.
        prob: Probability of an identity at each position.
        images: Number of training images.
    """
    supernet, space, full = config.supernet, config.space, all_choices(config.space)
    per_epoch = steps_per_epoch(images, supernet.augment.aug_repeats, supernet.batch_size)
    phase = supernet.open * supernet.epochs * per_epoch  # steps in which choices open
    period = 2 if supernet.complementary else 1  # a step and its complement have the same budget and choices

    @lru_cache(maxsize=4)
    def opened(choices: Open) -> tuple[SearchSpace, Sequence[FeasibleSet | None]]:
        part = space if choices == full else narrowed(space, choices)
        if supernet.distribution == "uniform":
            return part, [None]
        return part, feasible_sets(space, config.search) if choices == full else reachable(part, config.search)

    @lru_cache(maxsize=4)  # each step asks several times
    def subnets(step: int) -> list[SubnetSpec]:
        first = step // period * period
        part, within = opened(open_choices(space, first / phase) if first < phase else full)
        one = within[step // period % len(within)]
        return subnets_of_step(part, supernet, config.run.seed, step, prob, one)

    opened(full)  # a budget without networks is an error before the training
    return subnets

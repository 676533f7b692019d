"""Which subnet a training step uses: a pure function of (seed, step), so that resume needs no state. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from vitas_ds import config
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import Columns, SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.training import sampling

STREAM = 0x5A3  # keeps these draws apart from other uses of the run's seed
MOST_IDENTITY = 0.99


def draw(space: SearchSpace, seed: int, step: int, identity_prob: float | None = None, index: int = 0) -> SubnetSpec:
    """The random subnet of a global step; ``index`` tells several nets of one step apart.

    ``identity_prob`` is the chance of each position to be skipped (None: as likely as each head count).
    """
    rng = np.random.default_rng([seed, STREAM, step, index])
    return genome.decode(space, genome.sample(space, rng, 1, identity_prob)[0])


@dataclass(frozen=True)
class Price:
    """What random nets cost: a number for each net of a table, which no layer lowers, and how it is said."""

    of: Callable[[Columns], np.ndarray]
    said: Callable[[float], str]


MACS = Price(cost.macs, lambda value: f"{value / 1e9:.3f}G MACs")


def mean_price(space: SearchSpace, identity_prob: float | None, price: Price = MACS, count: int = 16384) -> float:
    """Mean price of ``count`` random nets, always the same draws: it never rises with the probability."""
    nets = genome.sample(space, np.random.default_rng([STREAM, count]), count, identity_prob)
    return float(price.of(genome.columns(space, nets)).mean())


def fit_identity_prob(space: SearchSpace, low: float, high: float, price: Price = MACS) -> float:
    """The identity probability at which random nets cost (low + high) / 2 on average, in MACs or another price.

    The first release steps by 0.01 until the mean is inside; this is a root finder on common random numbers. Where
    no probability reaches the middle, the nearest one (0 or 0.99) is returned with a warning that tells the mean it
    gives. A space without identity has nothing to fit: 0.
    """
    middle = (low + high) / 2
    if not space.identity:
        reached = mean_price(space, 0.0, price)
        _warn_outside(reached, low, high, price, "the space has no identity, so that nothing can be fitted")
        return 0.0
    for bound in (0.0, MOST_IDENTITY):
        reached = mean_price(space, bound, price)
        if (reached <= middle) if bound == 0 else (reached >= middle):
            _warn_outside(reached, low, high, price, f"identity probability {bound:g} comes nearest")
            return bound
    return float(brentq(lambda p: mean_price(space, p, price) - middle, 0.0, MOST_IDENTITY, xtol=1e-4))


def _warn_outside(reached: float, low: float, high: float, price: Price, why: str) -> None:
    if not low <= reached <= high:
        warnings.warn(
            f"random nets cost {price.said(reached)} on average, outside the budget "
            f"[{price.said(low)}, {price.said(high)}]: {why}",
            stacklevel=3,
        )


def nets_of_step(
    space: SearchSpace, supernet: config.Supernet, seed: int, step: int, identity_prob: float | None
) -> list[SubnetSpec]:
    """The nets that an optimizer step trains, the same on every rank.

    ``sampling: sandwich`` puts the largest net first, for it teaches the others, and the smallest last. Distinct
    steps draw independent nets, but for ``complementary``, where each odd step complements the even one before it.
    """
    count = 1 if supernet.sampling == "single" else supernet.random_subnets
    mirrored = supernet.complementary and step % 2 == 1
    nets = [sampling.draw(space, seed, step - mirrored, identity_prob, index) for index in range(count)]
    if mirrored:
        nets = [complement(space, net) for net in nets]
    if supernet.sampling == "single":
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

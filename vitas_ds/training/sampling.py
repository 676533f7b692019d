"""Draw the subnets of a training step, and fit the probability of skipped layers to a budget.

- ``single``: one random subnet per step (single-path: ViTAS, arXiv 2106.13700; AutoSlim, arXiv 1903.11728).
- ``sandwich``: the largest subnet, the smallest one, and some random ones (arXiv 1903.05134), optionally with in-place
  distillation: the smaller subnets learn the outputs of the largest one (same paper).
- ``complementary``: every second step trains the complements of the random subnets of the previous step (stochastic
  complementary strategy of BCNet, arXiv 2105.10533; the definition by width indices is **our reading**).

Random subnets are uniform over the genes, with skipped layers fitted to the budget, or cover the budget evenly.

All draws are pure functions of (seed, step): every rank draws the same subnets without communication, and a resumed
run needs no state. Importing this module does not import torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vitas_ds import config
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.search.feasible.operators import stratified_sample
from vitas_ds.search.feasible.table import FeasibleSet

STREAM = 0x5A3  # separates these draws from other uses of the run's seed
MAX_IDENTITY_PROB = 0.99


def draw(
    space: SearchSpace, seed: int, step: int, identity_prob: float | None = None, index: int = 0,
    within: FeasibleSet | None = None,
) -> SubnetSpec:  # fmt: skip
    """Draw a random subnet.

    Args:
        space: The search space.
        seed: Seed of the run.
        step: Global step.
        identity_prob: Probability of skipping a position. None: the same as that of each head count.
        index: Index of the subnet among those of the step.
        within: Networks to cover evenly, see ``stratified_sample``. None: all genes are uniform.
    """
    rng = np.random.default_rng([seed, STREAM, step, index])
    if within is None:
        return genome.decode(space, genome.sample(space, rng, 1, identity_prob)[0])
    spec = genome.decode(space, stratified_sample(within, 1, rng)[0])
    return spec if space.nested else _scatter(space, spec, rng)


def _scatter(space: SearchSpace, spec: SubnetSpec, rng: np.random.Generator) -> SubnetSpec:
    """Move the layers to random positions, in the same order."""
    places = np.sort(rng.choice(space.depth, spec.depth, replace=False)).tolist()
    layers = dict(zip(places, spec.active, strict=True))
    return replace(spec, layers=tuple(layers.get(i) for i in range(space.depth)))


def subnets_of_step(
    space: SearchSpace, supernet: config.Supernet, seed: int, step: int, identity_prob: float | None,
    within: FeasibleSet | None = None,
) -> list[SubnetSpec]:  # fmt: skip
    """Return the subnets that an optimizer step trains, the same on every rank.

    With ``sampling: sandwich``, the largest subnet is the first, because it is the teacher of the others, and the
    smallest the last. With ``complementary``, each odd step trains the complements of the even step before it.
    """
    count = 1 if supernet.sampling == "single" else supernet.random_subnets
    is_complement = supernet.complementary and step % 2 == 1
    specs = [draw(space, seed, step - is_complement, identity_prob, index, within) for index in range(count)]
    if is_complement:
        specs = [complement(space, spec) for spec in specs]
    if supernet.sampling == "single":
        return specs
    return [genome.decode(space, genome.largest(space)), *specs, genome.decode(space, genome.smallest(space))]


def complement(space: SearchSpace, spec: SubnetSpec) -> SubnetSpec:
    """Replace the index i of each width by last - i; patch size, head counts, identities and depth stay.

    For evenly spaced ratios, the two widths add up to the full width plus one step. The function is its own inverse.
    """

    def flip(layer: LayerSpec | None) -> LayerSpec | None:
        heads, qkv, mlp = space.layer_genes[layer]
        return layer and space.layer_choices[heads, -1 - qkv, -1 - mlp]

    embed_dim = space.embed_widths[-1 - space.embed_widths.index(spec.embed_dim)]
    return replace(spec, embed_dim=embed_dim, layers=tuple(map(flip, spec.layers)))


@dataclass(frozen=True)
class CostModel:
    """A cost of subnets to which the identity probability is fitted.

    Attributes:
        predict: Returns the cost of each subnet of a table. It must not decrease if a layer is added.
        describe: Formats a cost with its unit.
    """

    predict: Callable[[WidthTable], np.ndarray]
    describe: Callable[[float], str]


MACS = CostModel(cost.macs, lambda value: f"{value / 1e9:.3f}G MACs")


def mean_cost(space: SearchSpace, identity_prob: float | None, model: CostModel = MACS, count: int = 16384) -> float:
    """Return the mean cost of ``count`` random subnets.

    The random numbers are the same in every call, so the mean never increases with the probability.
    """
    genomes = genome.sample(space, np.random.default_rng([STREAM, count]), count, identity_prob)
    return float(model.predict(genome.width_table(space, genomes)).mean())


def fit_identity_prob(space: SearchSpace, low: float, high: float, model: CostModel = MACS) -> float:
    """Find the identity probability at which random subnets cost (low + high) / 2 on average.

    The first release increases the probability by 0.01 until the mean is inside the budget. This is a root finder
    on common random numbers. If no probability reaches the middle, the closest one (0 or 0.99) is returned, with a
    warning if its mean is outside the budget. For a space without identity, the result is 0.

    Args:
        space: The search space.
        low: Lower bound of the budget.
        high: Upper bound of the budget.
        model: The budgeted cost.
    """
    from scipy.optimize import brentq  # slow to import, and seldom needed

    middle = (low + high) / 2
    if not space.identity:
        mean = mean_cost(space, 0.0, model)
        _warn_outside(mean, low, high, model, "the space has no identity, there is nothing to fit")
        return 0.0
    for bound in (0.0, MAX_IDENTITY_PROB):
        mean = mean_cost(space, bound, model)
        if (mean <= middle) if bound == 0 else (mean >= middle):
            _warn_outside(mean, low, high, model, f"identity probability {bound:g} is the closest")
            return bound
    return float(brentq(lambda p: mean_cost(space, p, model) - middle, 0.0, MAX_IDENTITY_PROB, xtol=1e-4))


def _warn_outside(mean: float, low: float, high: float, model: CostModel, reason: str) -> None:
    if not low <= mean <= high:
        warnings.warn(
            f"random subnets cost {model.describe(mean)} on average, outside the budget "
            f"[{model.describe(low)}, {model.describe(high)}]: {reason}",
            stacklevel=3,
        )

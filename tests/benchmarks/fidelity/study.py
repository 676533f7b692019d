"""The space, the subnets and the supernet variants of the study."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Literal

import numpy as np

from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.training.sampling import fit_identity_prob

SPACE = SearchSpace(
    image_size=28, num_classes=10, patch_sizes=(7, 14), embed_dim=96, depth=5, min_depth=2, num_heads=(2, 4, 8),
    qkv_dim=192, mlp_dim=192, embed_ratios=(1 / 3, 0.5, 0.625, 0.75, 1.0), qkv_ratios=(0.25, 0.375, 0.5, 0.75, 1.0),
    mlp_ratios=(0.25, 0.5, 0.75, 1.0), identity_shift=True,
)  # fmt: skip
RANGE = 0.15e6, 1.5e6  # MACs of the spread subnets, and the range for the training of supernets
EQUAL = 0.594e6, 0.606e6  # MACs of the subnets with nearly equal cost
SEARCHED = 0.4e6, 0.6e6  # MAC range of the searches
BASE, QUICKSTART = "base", "quickstart's way"
SEARCHED_ON = BASE, QUICKSTART  # the supernets of the searches
AT_RANDOM = "accuracy, layers at random places"  # the reference of misplaced widths
Defect = Literal["position", "stem", "widths"]


@dataclass(frozen=True)
class Size:
    """The size of the study. Every supernet trains for the MACs of ``supernet_steps`` average subnets."""

    name: str
    spread: int  # subnets over RANGE
    equal: int  # subnets within EQUAL, the same number for each patch size
    longer: int  # of these, number per patch size that are also trained twice as long
    net_steps: int
    supernet_steps: int
    seeds: int
    searches: int  # seeds of the searches
    population: int
    generations: int
    views: int  # augmented views of each training image
    variants: tuple[str, ...] | None = None  # names; None: all


FULL = Size("full", 24, 24, 2, 6000, 4000, 2, 6, 20, 16, 16)
SMALL = Size("small", 12, 6, 1, 800, 1500, 1, 2, 8, 3, 8, (BASE, QUICKSTART, "sandwich", "defect: one stem"))


@dataclass(frozen=True)
class Variant:
    """A way to train a supernet. The default values are the base of the study.

    The base is the default of the product: bilateral sharing with q and k private to each head count, one subnet per
    step, and identities at any position. Only the initial matrices differ: a standard deviation of fan_in ** -0.5,
    because subnets this narrow do not learn from the default.
    """

    name: str
    supernet: config.Supernet = field(default_factory=config.Supernet)
    defect: Defect | None = None  # of the first release
    deep_end: bool = False  # identities only at the deep end
    fair: bool = False  # take every choice of a gene once before repeating one (FairNAS, arXiv 1907.01845)
    length: float = 1.0  # of the training, relative to the budget
    init_std: float | None = None  # standard deviation of initial matrices; None: fan_in ** -0.5
    extra: bool = False  # also score with averaged weights, adapted norms, and layers at random positions


@cache
def variants() -> tuple[Variant, ...]:
    """Return all variants in the order of training, starting with the base."""
    s = config.Supernet
    return (
        Variant(BASE, extra=True),
        Variant(QUICKSTART, s(sharing="ordinal"), deep_end=True, extra=True),
        Variant("identities at the deep end", deep_end=True),
        Variant("ordinal", s(sharing="ordinal")),
        Variant("three times as long", length=3.0),
        Variant("mean of losses", s(objective="loss_mean")),
        Variant("cyclic", s(sharing="cyclic")),
        Variant("nothing private", s(private_attention=0)),
        Variant("v private", s(private_attention=1)),
        Variant("sandwich", s(sampling="sandwich", random_subnets=2)),
        Variant("defect: one position", defect="position"),
        Variant("defect: one stem", defect="stem"),
        Variant("defect: misplaced widths", defect="widths"),
        Variant("initial deviation 0.02, the default", init_std=0.02),
        Variant("fair sampling", fair=True),
    )


@cache
def identity_prob() -> float:
    """Return the probability of skipping a position in training, fitted to RANGE like in the product."""
    return fit_identity_prob(SPACE, *RANGE)


@cache
def mean_macs() -> float:
    """Return the mean MACs of the subnets drawn in training."""
    drawn = genome.sample(SPACE, np.random.default_rng(0), 4096, identity_prob())
    return float(np.mean([spec_macs(genome.decode(SPACE, row)) for row in drawn]))


@cache
def nets(size: Size) -> dict[str, SubnetSpec]:
    """Return the subnets whose own training is the truth: ``spread NN`` by increasing cost, then ``equal NN``."""
    targets = np.geomspace(RANGE[0] * 1.05, RANGE[1] * 0.95, size.spread)
    asked = [(SPACE, 0.97 * target, 1.03 * target, 1) for target in targets]
    for patch in SPACE.patch_sizes:  # patch size affects accuracy so much that both need equal shares
        space = SearchSpace(**SPACE.model_dump() | {"patch_sizes": (patch,)})
        asked.append((space, *EQUAL, size.equal // len(SPACE.patch_sizes)))
    rng, specs = np.random.default_rng(9), list[SubnetSpec]()
    for space, low, high, count in asked:
        rows = operators.sample_distinct(feasible_set(space, {"macs": (int(low), int(high))}), count, rng)
        specs += [genome.decode(space, row).canonical() for row in rows]
    names = [f"{group} {i:02}" for group in ("spread", "equal") for i in range(getattr(size, group))]
    return dict(zip(names, specs, strict=True))


def longer_nets(size: Size) -> dict[str, SubnetSpec]:
    """Return the subnets also trained twice as long: the first ``size.longer`` of equal cost per patch size."""
    equal = [(name, net) for name, net in nets(size).items() if name.startswith("equal")]
    of = [[pair for pair in equal if pair[1].patch_size == patch][: size.longer] for patch in SPACE.patch_sizes]
    return dict(chain(*of))


def variant(name: str) -> Variant:
    """Return the variant with a name."""
    return next(v for v in variants() if v.name == name)

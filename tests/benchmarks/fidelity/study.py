"""What the study trains: its space, its nets, and the supernets that are compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np

from vitas_ds import config, genome
from vitas_ds.cost import spec_macs
from vitas_ds.sampling import fit_identity_prob
from vitas_ds.search import propose
from vitas_ds.search.feasible import feasible
from vitas_ds.space import SearchSpace
from vitas_ds.spec import SubnetSpec

SPACE = SearchSpace(
    image_size=28, num_classes=10, patch_sizes=(7, 14), embed_dim=96, depth=5, min_depth=2, num_heads=(2, 4, 8),
    qkv_dim=192, mlp_dim=192, embed_ratios=(1 / 3, 0.5, 0.625, 0.75, 1.0), qkv_ratios=(0.25, 0.375, 0.5, 0.75, 1.0),
    mlp_ratios=(0.25, 0.5, 0.75, 1.0), identity_shift=True,
)  # fmt: skip
RANGE = 0.15e6, 1.5e6  # MACs of the nets that are spread out, and of what supernets train on average
EQUAL = 0.594e6, 0.606e6  # of the nets at nearly equal cost
SEARCHED = 0.4e6, 0.6e6  # of the searches
SEARCHED_ON = "bilateral", "identities anywhere"  # the supernets of the searches
Defect = Literal["position", "stem", "widths"]


@dataclass(frozen=True)
class Size:
    """How much is done. A supernet trains for the MACs of ``supernet_steps`` average nets, whatever its rule."""

    name: str
    spread: int  # nets over RANGE
    equal: int  # nets within EQUAL
    net_steps: int
    supernet_steps: int
    seeds: int
    searches: int  # seeds of the searches
    population: int
    generations: int
    views: int  # augmented views of each training image
    variants: tuple[str, ...] | None = None  # names; None: all


FULL = Size("full", 24, 12, 2000, 4000, 2, 10, 20, 16, 16)
SMALL = Size("small", 12, 6, 800, 1500, 1, 2, 8, 3, 8, ("bilateral", "ordinal", "sandwich", "defect: one stem"))


@dataclass(frozen=True)
class Variant:
    """A way to train a supernet; what is not said is the study's base: bilateral, q and k private, one net a step."""

    name: str
    supernet: config.Supernet = field(default_factory=config.Supernet)
    defect: Defect | None = None  # of the first release
    anywhere: bool = False  # identities at any position, not at the deep end alone
    fair: bool = False  # every choice of a gene once before one comes again (FairNAS, arXiv 1907.01845)
    length: float = 1.0  # of the training
    init_std: float | None = None  # of the initial matrices; None: fan_in ** -0.5
    extra: bool = False  # score in further ways too: averaged weights, adapted norms, fewer images


@cache
def variants() -> tuple[Variant, ...]:
    """All of them, the base first; what comes first is trained first."""
    s = config.Supernet
    return (
        Variant("bilateral", extra=True),
        Variant("ordinal", s(sharing="ordinal"), extra=True),
        Variant("bilateral, mean of losses", s(objective="loss_mean")),
        Variant("cyclic", s(sharing="cyclic")),
        Variant("nothing private", s(private_attention=0)),
        Variant("v private", s(private_attention=1)),
        Variant("sandwich", s(rule="sandwich", random_nets=2)),
        Variant("defect: one position", defect="position"),
        Variant("defect: one stem", defect="stem"),
        Variant("defect: misplaced widths", defect="widths", anywhere=True),
        Variant("identities anywhere", anywhere=True),
        Variant("first release's initial weights", init_std=0.02),
        Variant("ordinal, nothing private", s(sharing="ordinal", private_attention=0)),
        Variant("fair sampling", fair=True),
        Variant("three times as long", length=3.0),
        Variant("anywhere, three times as long", anywhere=True, length=3.0),
    )


@cache
def identity_prob() -> float:
    """The chance of a position to be skipped in training, as the product fits it to RANGE."""
    return fit_identity_prob(SPACE, *RANGE)


@cache
def mean_macs() -> float:
    """MACs of an average net of the training."""
    drawn = genome.sample(SPACE, np.random.default_rng(0), 4096, identity_prob())
    return float(np.mean([spec_macs(genome.decode(SPACE, row)) for row in drawn]))


@cache
def nets(size: Size) -> dict[str, SubnetSpec]:
    """The nets whose own training is the truth, by name: ``spread NN`` at rising cost, then ``equal NN``."""
    rng, seen, found = np.random.default_rng(9), set[bytes](), {}
    targets = np.geomspace(RANGE[0] * 1.05, RANGE[1] * 0.95, size.spread)
    asked = [(f"spread {i:02}", (0.97 * x, 1.03 * x), 1) for i, x in enumerate(targets)] + [
        ("equal", EQUAL, size.equal)
    ]
    for name, (low, high), count in asked:
        inside = feasible(SPACE, {"macs": (int(low), int(high))})
        for i, row in enumerate(propose.fresh(inside, count, rng, seen)):
            seen.add(propose.key(row))
            found[name if count == 1 else f"{name} {i:02}"] = genome.decode(SPACE, row).canonical()
    return found


def variant(name: str) -> Variant:
    """The variant of that name."""
    return next(v for v in variants() if v.name == name)

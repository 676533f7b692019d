"""Small searches with scores that need no supernet."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Search
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.latency.predictor import Predictor

SMALL = SearchSpace(
    image_size=32, num_classes=10, patch_sizes=(8, 16), embed_dim=64, depth=6, num_heads=(1, 2, 4),
    qkv_dim=96, mlp_dim=128, ratios=(0.25, 0.5, 0.75, 1.0),
)  # fmt: skip


CELL = SearchSpace(**SMALL.model_dump() | {"layout": "cell"})


BUDGET = (600_000, 1_200_000)


PREDICTOR = Predictor(np.array([2e-4, 1e-11, 3e-11, 8e-5, 5e-12, 4e-12, 6e-12, 1e-10, 3e-11, 2e-11]), 0.02, 0.99)


TIMED = {**budgets.COSTS, "latency": PREDICTOR.picoseconds}


def noise(spec: SubnetSpec, scale: float = 1.0) -> float:
    """A fixed random number in [0, scale) of a spec."""
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode()).digest()
    return scale * int.from_bytes(digest[:6]) / 2**48


def likeness(spec: SubnetSpec) -> float:
    """1 at the net with the middle of everything, less with every step away; no cost pulls at it."""
    layers = [abs(x.qkv_dim - 48) / 24 + abs(x.mlp_dim - 64) / 32 + abs(x.num_heads - 2) for x in spec.active]
    steps = sum(layers) + 3 * abs(spec.depth - 4) + abs(spec.embed_dim - 48) / 16 + (spec.patch_size != 8)
    return 1 - steps / 60


def each(function):
    """A score function of lists."""
    return lambda specs: map(function, specs)


def all_inside(space: SearchSpace, cfg: Search, entries, costs=budgets.COSTS) -> bool:
    nets = np.array([genome.encode(space, entry.spec) for entry in entries])
    prices = budgets.prices(space, nets, costs=costs)
    told = all(prices[name].tolist() == [entry.costs[name] for entry in entries] for name in prices)
    return told and not budgets.excess(budgets.of_config(cfg, costs) or {"macs": (0, 2**62)}, prices).any()


class Killed(Exception):
    pass

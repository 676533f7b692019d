"""Small searches with synthetic scores instead of a supernet."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Search
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.latency.predictor import LatencyPredictor
from vitas_ds.search.loop import run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import Result
from vitas_ds.search.scoring.evaluation import Evaluator

SMALL = SearchSpace(
    image_size=32, num_classes=10, patch_sizes=(8, 16), embed_dim=64, depth=6, num_heads=(1, 2, 4),
    qkv_dim=96, mlp_dim=128, ratios=(0.25, 0.5, 0.75, 1.0),
)  # fmt: skip


CELL = SearchSpace(**SMALL.model_dump() | {"layout": "cell"})


BUDGET = (600_000, 1_200_000)


PREDICTOR = LatencyPredictor(np.array([2e-4, 1e-11, 3e-11, 8e-5, 5e-12, 4e-12, 6e-12, 1e-10, 3e-11, 2e-11]), 0.02, 0.99)


TIMED = {**budgets.COSTS, "latency": PREDICTOR.picoseconds}


def noise(spec: SubnetSpec, scale: float = 1.0) -> float:
    """Return a fixed pseudo-random number in [0, scale) for a spec."""
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode()).digest()
    return scale * int.from_bytes(digest[:6]) / 2**48


def likeness(spec: SubnetSpec) -> float:
    """Return 1 for one subnet in the middle of the space, and less with every step away. Independent of the costs."""
    layers = [abs(x.qkv_dim - 48) / 24 + abs(x.mlp_dim - 64) / 32 + abs(x.num_heads - 2) for x in spec.active]
    steps = sum(layers) + 3 * abs(spec.depth - 4) + abs(spec.embed_dim - 48) / 16 + (spec.patch_size != 8)
    return 1 - steps / 60


def each(function):
    """Return a score function that applies ``function`` to each spec."""
    return lambda specs: map(function, specs)


def search(
    space: SearchSpace, cfg: Search, score, ledger, seed=0, on_generation=None, images=0, race=None, costs=budgets.COSTS
) -> Result:
    """Run all generations of a search."""
    return run_loop(SearchProblem(space, cfg, seed, costs), Evaluator(score, ledger, images), race, on_generation)


def all_within_budget(space: SearchSpace, cfg: Search, candidates, costs=budgets.COSTS) -> bool:
    """Return whether all candidates state their true costs and are within the budget."""
    genomes = np.array([genome.encode(space, c.spec) for c in candidates])
    values = budgets.compute_costs(space, genomes, costs=costs)
    stated = all(values[name].tolist() == [c.costs[name] for c in candidates] for name in values)
    return stated and not budgets.violation(budgets.from_config(cfg, costs) or {"macs": (0, 2**62)}, values).any()


class Killed(Exception):
    """Stands for the death of the process."""


def dying(score, calls: list, limit: int):
    """Return a score function that raises ``Killed`` as soon as ``calls``, the list of scored specs, has ``limit``."""

    def scores(specs):
        for spec, value in zip(specs, score(specs), strict=True):
            if len(calls) >= limit:
                raise Killed
            calls.append(spec)
            yield value

    return scores

"""Evolution and random search with equal numbers of scores on one supernet, and uniform subnets of equal budget."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.benchmarks.fidelity import scoring
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.study import SEARCHED, SPACE, Size
from vitas_ds import config
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.supernet import Supernet
from vitas_ds.search.baselines import score_baselines
from vitas_ds.search.loop import run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import ranked
from vitas_ds.search.scoring import ledger
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.evaluation import Evaluator


def run(supernet: Supernet, images: Images, size: Size, seed: int) -> dict[str, Any]:
    """Return ``best``: the best subnet of each way with its score, and ``nets``: the subnets to train, by name."""

    @cache
    def score(spec: SubnetSpec) -> float:
        return scoring.accuracy(supernet, spec, images)

    cfg = config.Search(macs=SEARCHED, population=size.population, generations=size.generations)
    problem, scores = SearchProblem(SPACE, cfg, seed), lambda specs: map(score, specs)
    found = {"evolution": ranked(run_loop(problem, Evaluator(scores, ledger.in_memory())).candidates)}
    found |= score_baselines(problem, Evaluator(scores, ledger.in_memory()))
    best = {way: _pick(candidates[0]) for way, candidates in found.items()}
    return {"best": best, "nets": {pick["name"]: pick["spec"] for pick in best.values()}}


def _pick(candidate: Candidate) -> dict[str, Any]:
    """Return a dictionary with a short name that is the same for equal subnets."""
    spec = candidate.spec
    layers = " ".join(f"{layer.num_heads}.{layer.qkv_dim}.{layer.mlp_dim}" for layer in spec.active)
    name = f"{spec.patch_size}/{spec.embed_dim}: {layers}"
    return {"name": name, "spec": spec.to_dict(), "score": candidate.value, "macs": candidate.costs["macs"]}

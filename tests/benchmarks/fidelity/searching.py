"""Evolution against random search at as many scores, on one supernet, and the uniform nets of the same budget."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.benchmarks.fidelity import scoring
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.study import SEARCHED, SPACE, Size
from vitas_ds import config
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.supernet import Supernet
from vitas_ds.search.baselines import baselines
from vitas_ds.search.loop import ranked, search
from vitas_ds.search.scoring import ledger
from vitas_ds.search.scoring.ledger import Entry


def run(supernet: Supernet, images: Images, size: Size, seed: int) -> dict[str, Any]:
    """The best net of each way with its score, and ``nets``: those to be trained, by a name that is theirs alone."""

    @cache
    def score(spec: SubnetSpec) -> float:
        return scoring.accuracy(supernet, spec, images)

    cfg = config.Search(macs=SEARCHED, population=size.population, generations=size.generations)
    known = ledger.in_memory()
    found = {"evolution": ranked(search(SPACE, cfg, lambda specs: map(score, specs), known, seed).entries)}
    found |= baselines(SPACE, cfg, lambda specs: map(score, specs), ledger.in_memory(), seed)
    best = {way: _told(entries[0]) for way, entries in found.items()}
    return {"best": best, "nets": {told["name"]: told["spec"] for told in best.values()}}


def _told(entry: Entry) -> dict[str, Any]:
    """``name`` is short, and the same for the same net."""
    spec = entry.spec
    layers = " ".join(f"{layer.num_heads}.{layer.qkv_dim}.{layer.mlp_dim}" for layer in spec.active)
    name = f"{spec.patch_size}/{spec.embed_dim}: {layers}"
    return {"name": name, "spec": spec.to_dict(), "score": entry.score.value, "macs": entry.costs["macs"]}

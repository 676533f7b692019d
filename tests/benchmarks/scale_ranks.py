"""Count what ranks exchange and write: bytes of collectives per step, bytes of a checkpoint, scored images per rank.

    torchrun --nproc_per_node 2 -m tests.benchmarks.scale_ranks OUT.json

It uses gloo on CPUs, and a real engine, checkpoint and scorer. Only bytes and counts are reported: they hold for any
device. ``scale_model.py`` predicts them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.benchmarks.scale_model import modules_used
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine.engine import Engine
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.search.scoring.scorer import Scorer
from vitas_ds.training import checkpoint

SPACE = SearchSpace(image_size=28, patch_sizes=(7, 14), embed_dim=48, num_classes=10, depth=3, num_heads=(3, 6),
                    qkv_dim=144, mlp_dim=96, ratios=(0.5, 1.0))  # fmt: skip
STAGES = ("zero0", "zero1", "zero2", "zero3", "zero3 without small parameters")
IMAGES, CANDIDATES, BATCH = 96, 12, 8


class CollectiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors of each collective; of an all-gather or reduce-scatter, the larger side."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and (name := func._schema.name.removeprefix("c10d::").strip("_")) != "barrier":
            sizes = [sum(_bytes(x) for x in tree_leaves(arg)) for arg in args[:2]]
            self.bytes[name] += max(sizes)
        return func(*args, **(kwargs or {}))


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def training(zero: str, ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Return the bytes of the collectives of two steps of different networks, and of the files of a checkpoint."""
    supernet = Supernet(SPACE, "ordinal")
    init_weights(supernet, 0)
    units = supernet.units()
    sizes = {unit: sum(p.numel() for p in params) for unit, params in units.items()}
    settings = config.Training(batch_size=ranks.world_size, warmup_epochs=0)
    engine = Engine(supernet, units, config.Engine(zero=_zero_file(zero, folder), precision="fp32"), settings, ranks)
    steps = []
    for spec in genome.decode_all(SPACE, genome.sample(SPACE, np.random.default_rng(0), 4)[:2]):
        used = supernet.units_used(spec)
        with CollectiveBytes() as counted:
            loss = engine(torch.ones(1, 3, 28, 28), spec).square().mean()
            engine.backward(loss)
            engine.step(used, 1e-3, loss)
        gathered = sum(sizes[unit] for unit in modules_used(units, used))
        parameters = {"used": sum(sizes[unit] for unit in used), "gathered": gathered}
        steps.append(parameters | {"collectives": dict(counted.bytes)})
    path = checkpoint.save(engine, folder / zero, 2, {})
    files = {file.name: file.stat().st_size for file in path.glob("shard-*")}
    return {"parameters": sum(sizes.values()), "steps": steps, "files": files}


def _zero_file(zero: str, folder: Path) -> str:
    """Return ``engine.zero``. In a large network, few parameters are small enough for ZeRO 3 to keep them gathered."""
    if " " not in zero:
        return zero
    path = folder / f"rank-{os.getpid()}.json"
    path.write_text(json.dumps({"zero_optimization": {
        "stage": 3, "reduce_bucket_size": 50_000_000, "stage3_prefetch_bucket_size": 0,
        "stage3_param_persistence_threshold": 0, "overlap_comm": False, "contiguous_gradients": True}}))  # fmt: skip
    return str(path)


def scoring(ranks_per_candidate: int, ranks: Ranks) -> dict[str, Any]:
    """Return the number of images that each rank scores in a generation, and the bytes of the collectives."""
    supernet = Supernet(SPACE, "ordinal", class_token_only=True)
    init_weights(supernet, 0)
    seen = [0]

    def prepare(images: Tensor) -> Tensor:
        seen[0] += len(images)
        return images / 255

    pixels, labels = torch.zeros(IMAGES, 3, 28, 28, dtype=torch.uint8), torch.zeros(IMAGES, dtype=torch.int64)
    scorer = Scorer(supernet, pixels, labels, prepare, np.arange(IMAGES), ranks, BATCH,
                    ranks_per_candidate=ranks_per_candidate)  # fmt: skip
    specs = genome.decode_all(SPACE, genome.sample(SPACE, np.random.default_rng(1), CANDIDATES))
    with CollectiveBytes() as counted:
        assert len(list(scorer(specs))) == CANDIDATES
    return {"images": comm.gather(seen[0]), "collectives": dict(counted.bytes)}


def main(out: Path) -> None:
    """Count everything, and write it on rank 0."""
    ranks = comm.init("cpu", 120)
    torch.set_num_threads(1)
    folder = Path(comm.from_main(tempfile.mkdtemp))
    found = {
        "ranks": ranks.world_size,
        "training": {zero: training(zero, ranks, folder) for zero in STAGES},
        "scoring": {size: scoring(size, ranks) for size in {1, ranks.world_size}},
    }
    if ranks.is_main:
        out.write_text(json.dumps(found, indent=1) + "\n")
    comm.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

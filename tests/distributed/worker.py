"""Runs inside the launcher: many cases in one start. ``worker.py OUT.json TASK [ARGS]``; rank 0 writes what it saw."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

BEGIN = time.time()

import torch  # noqa: E402

from tests.distributed import toy  # noqa: E402
from tests.distributed.toy import Case  # noqa: E402
from vitas_ds import distributed  # noqa: E402

RIGHT = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")


def table(ranks, stages: str = ",".join(RIGHT)) -> list[dict]:
    """Distance of weights, averages and norms to plain torch; and whether unused weights stayed bit for bit."""
    rows = []
    for zero, clip, accumulate in itertools.product(stages.split(","), (0.0, 1.0), (1, 2)):
        rows.append(_row(Case(zero, clip=clip, accumulate=accumulate), ranks))
    for zero in stages.split(","):
        rows.append(_row(Case(zero, clip=1.0, nets=2, ema=0.9), ranks))
        rows.append(_row(Case(zero, clip=1.0, nets=2, joint=True, accumulate=2), ranks))
        rows.append(_row(Case(zero, "bf16", clip=1.0), ranks))
    return rows


def _row(case: Case, ranks) -> dict:
    weights, ema, norms = toy.reference(case)
    engine = toy.start(case, ranks)
    unit_of = {p.name: p.unit for row in distributed.gather(engine.owned) for ps in row.values() for p in ps}
    before, moved, seen = toy.whole(engine), [], []
    for step in range(case.steps):
        seen.append(toy.train_step(engine, case, step))
        after = toy.whole(engine)
        used = set().union(*(engine.model.used(net) for net in toy.nets_of(step, case.nets)))
        moved += [name for name in after if unit_of[name] not in used and not torch.equal(before[name], after[name])]
        before = after
    return {
        "case": str(case),
        "precision": case.precision,
        "weights": toy.distance(before, weights),
        "ema": toy.distance(toy.whole(engine, "ema"), ema) if case.ema else 0.0,
        "norms": max(abs(a - b) / b for a, b in zip(seen, norms, strict=True)),
        "moved": moved,
        "zero_grads": toy.distance(toy.reference(case, zero_grads=True)[0], weights),
    }


def main(out: str, task: str, *args: str) -> None:
    ranks = distributed.init("cpu", timeout=60)
    result = {"import": time.time() - BEGIN, "result": globals()[task](ranks, *args), "seconds": time.time() - BEGIN}
    if ranks.is_main:
        Path(out).write_text(json.dumps(result))
    distributed.close()


if __name__ == "__main__":
    main(*(arg for arg in sys.argv[1:] if not arg.startswith("--local_rank")))

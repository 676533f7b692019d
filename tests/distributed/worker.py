"""Runs inside a launcher: ``worker.py OUT.json TASK [ARGS]``, many cases in one start. Rank 0 writes what was seen."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch

from tests.helpers import toy_supernet as toy
from tests.helpers.toy_supernet import Case
from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine.engine import Engine
from vitas_ds.engine.optimizer import decay_groups
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.training import checkpoint

STAGES = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")


def table(ranks: Ranks) -> list[dict[str, Any]]:
    """Stage x precision x clipping x accumulation; and in each stage several nets a step, averaged weights."""
    cases = [
        Case(zero, precision, clip=clip, accumulate=accumulate)
        for zero, precision, clip, accumulate in itertools.product(STAGES, ("fp32", "bf16"), (0.0, 1.0), (1, 2))
    ]
    for zero in STAGES:
        cases.append(Case(zero, clip=1.0, nets=2, ema=0.9))
        cases.append(Case(zero, clip=1.0, nets=2, joint=True, accumulate=2))
        cases.append(Case(zero, clip=1.0, nets=2, forwards_first=True, accumulate=2))
        cases.append(Case(zero, "bf16", clip=1.0, nets=2, forwards_first=True, ema=0.9))
    return [_row(case, ranks) for case in cases]


def _row(case: Case, ranks: Ranks) -> dict[str, Any]:
    """Distance to plain torch, and which unused weights moved."""
    weights, ema, norms = toy.reference(case)
    engine = toy.start(case, ranks)
    before, moved, seen = toy.whole(engine), [], []
    for step in range(case.steps):
        seen.append(toy.train_step(engine, case, step))
        after = toy.whole(engine)
        moved += [name for name in toy.names_unused(engine, case, step) if not torch.equal(before[name], after[name])]
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


def resume(ranks: Ranks, folder: str) -> list[dict[str, Any]]:
    """8 steps against 4, save, a new engine, load, 4: all that training goes on from must be the same bits."""
    rows = []
    for zero in STAGES:
        case = Case(zero, "bf16" if zero == "zero1" else "fp32", clip=1.0, ema=0.9, nets=2)
        unbroken = toy.start(case, ranks)
        norms = toy.train(unbroken, case, 0, 8)
        broken = toy.start(case, ranks)
        toy.train(broken, case, 0, 4)
        path = checkpoint.save(broken, Path(folder) / zero, 4, {"epoch": 1})
        fresh = toy.start(case, ranks)
        with torch.no_grad():
            fresh.model.scale.fill_(9.0)
        state = checkpoint.load(fresh, path)
        same_norms = toy.train(fresh, case, 4, 8) == norms[4:]
        a, b = toy.everything(unbroken), toy.everything(fresh)
        rows.append({
            "zero": zero,
            "state": state,
            "norms": same_norms,
            "differ": [name for name in a if not torch.equal(a[name], b[name])],
            "buffer": float(fresh.model.scale),
            "saved": float(toy.distance(checkpoint.consolidate(path), toy.whole(broken) | _scale())),
            "ema": float(toy.distance(checkpoint.consolidate(path, ema=True), toy.whole(broken, "ema") | _scale())),
        })  # fmt: skip
    return rows


def _scale() -> dict[str, torch.Tensor]:
    return {"scale": torch.tensor([0.5])}


def go_on(ranks: Ranks, folder: str, first: str, last: str, *zeros: str) -> list[dict[str, Any]]:
    """Load what another start saved (another number of ranks or stage), check it, train on, save; a chain a zero."""
    rows = []
    for chain, zero in enumerate(zeros):
        directory = Path(folder) / str(chain)
        engine = toy.start(Case(zero, clip=1.0), ranks)
        path = checkpoint.newest(directory)
        row: dict[str, Any] = {"world_size": ranks.world_size, "loaded": path and path.name}
        if path:
            checkpoint.load(engine, path)
            row["exact"] = toy.distance(checkpoint.consolidate(path), toy.whole(engine) | _scale())
        toy.train(engine, Case(zero, clip=1.0), int(first), int(last))
        checkpoint.save(engine, directory, int(last), {})
        row["reference"] = toy.distance(toy.reference(Case(clip=1.0, steps=int(last)))[0], toy.whole(engine))
        rows.append(row)
    return rows


def nonfinite(ranks: Ranks) -> list[dict[str, Any]]:
    """A NaN on the last rank alone: every rank learns of it, nothing moves, and training goes on as without it."""
    rows = []
    for zero in STAGES:
        case = Case(zero, clip=1.0, ema=0.9)
        engine, clean = toy.start(case, ranks), toy.start(case, ranks)
        toy.train(engine, case, 0, 3)
        before = toy.everything(engine)
        x, _ = toy.batch_of(0, 4)
        loss = engine(x, toy.nets_of(0, 1)[0]).sum()
        engine.backward(loss * (float("nan") if ranks.rank == ranks.world_size - 1 else 1.0))
        norm = engine.step(engine.model.used(toy.nets_of(0, 1)[0]), 0.1)
        after = toy.everything(engine)
        toy.train(engine, case, 3, 6)
        toy.train(clean, case, 0, 6)
        a, b = toy.everything(engine), toy.everything(clean)
        rows.append({
            "zero": zero,
            "norms": [str(n) for n in comm.gather(norm)],
            "moved": [name for name in before if not torch.equal(before[name], after[name])],
            "later": [name for name in a if not torch.equal(a[name], b[name])],
        })  # fmt: skip
    return rows


def loss_scale(ranks: Ranks) -> list[dict[str, Any]]:
    """fp16's loss scale: a power of two changes no bit of fp32 training; an overflow halves it and moves nothing."""
    rows = []
    for zero in STAGES:
        case = Case(zero, clip=1.0, accumulate=2)
        plain, scaled = toy.start(case, ranks), toy.start(case, ranks)
        scaled.loss_scale.dynamic, scaled.loss_scale.value = True, 1024.0
        scaled._set_loss_scale()
        same_norms = toy.train(plain, case, 0, 4) == toy.train(scaled, case, 0, 4)
        a, b = toy.everything(plain), toy.everything(scaled)
        scaled.loss_scale.value = 2.0**130
        scaled._set_loss_scale()
        norm = toy.train_step(scaled, case, 4)
        c = toy.everything(scaled)
        rows.append({
            "zero": zero,
            "norms": same_norms,
            "differ": [name for name in a if not torch.equal(a[name], b[name])],
            "overflow": str(norm),
            "halved": scaled.loss_scale.value == 2.0**129,
            "moved": [name for name in b if not torch.equal(b[name], c[name])],
        })  # fmt: skip
    return rows


SPACE = SearchSpace(
    image_size=16, patch_sizes=(4, 8), depth=3, num_heads=(1, 2), embed_dim=20, qkv_dim=60, mlp_dim=40, num_classes=4
)
SPECS = [  # sampled nets: another patch size, an identity, other widths and head counts
    SubnetSpec(16, 8, 20, 4, (LayerSpec(2, 60, 40), None, LayerSpec(1, 30, 20))),
    SubnetSpec(16, 4, 10, 4, (LayerSpec(1, 18, 8), LayerSpec(2, 36, 12))),
    SubnetSpec(16, 8, 14, 4, (None, LayerSpec(2, 60, 40), LayerSpec(2, 12, 36))),
]


def supernet(ranks: Ranks) -> list[dict[str, Any]]:
    """The real supernet, both sides of bilateral sharing, two nets in every third step, against plain torch."""

    def specs(step: int) -> list[SubnetSpec]:
        return [SPECS[step % 3]] if step % 3 else [SPECS[0], SPECS[1]]

    def losses(call: Any, step: int, low: int, high: int) -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(step)
        images, labels = torch.randn(4, 3, 16, 16, generator=rng), torch.randint(4, (4,), generator=rng)
        return [
            torch.nn.functional.cross_entropy(call(images[low:high], spec).float().sum(0), labels[low:high])
            for spec in specs(step)
        ]

    def fresh() -> Supernet:
        net = Supernet(SPACE, "bilateral", 2)
        init_weights(net, 0)
        with torch.no_grad():
            for p in net.parameters():  # so that no gradient is so small that AdamW steps along rounding errors
                p.mul_(10 if p.ndim > 1 else 1)
        return net

    twin, training = fresh(), config.Training(batch_size=4, clip_grad=1.0)
    adamw = torch.optim.AdamW(decay_groups(twin.units(), training.weight_decay), lr=1e-2)
    for step in range(6):
        adamw.zero_grad()
        sum(losses(twin, step, 0, 4)).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        adamw.step()
    rows, share = [], 4 // ranks.world_size
    for zero in STAGES:
        net = fresh()
        engine = Engine(net, net.units(), config.Engine(zero=zero, precision="fp32"), training, ranks)
        for step in range(6):
            for loss in losses(engine, step, ranks.rank * share, (ranks.rank + 1) * share):
                engine.backward(loss)
            engine.step(set().union(*(net.units_used(spec) for spec in specs(step))), 1e-2)
        expected = {name: p.detach() for name, p in twin.named_parameters()}
        got = toy.whole(engine)
        for name in [name for name in got if re.search(r"\.k\d*_bias$", name)]:
            del got[name], expected[name]  # softmax cancels it: its gradient is rounding, which AdamW makes large
        worst = max(got, key=lambda name: float((got[name] - expected[name]).abs().max()))
        rows.append({"zero": zero, "weights": toy.distance(got, expected), "worst": worst})
    return rows


def hardy(ranks: Ranks, folder: str, steps: str) -> list[str]:
    """In each stage, train to the end from wherever the last start got to, with a checkpoint a step; all digests."""
    Path(folder, f"pid-{ranks.rank}").write_text(str(os.getpid()))
    digests = []
    for zero in STAGES:
        case, place = Case(zero, clip=1.0, ema=0.9), Path(folder, zero)
        engine, path = toy.start(case, ranks), checkpoint.newest(place)
        done = checkpoint.load(engine, path)["done"] if path else 0
        for step in range(done, int(steps)):
            toy.train_step(engine, case, step)
            checkpoint.save(engine, place, step + 1, {"done": step + 1}, keep=2)
        tensors = toy.everything(engine)
        digests += [f"{zero} {name} {hashlib.sha256(t.numpy()).hexdigest()}" for name, t in tensors.items()]
    return digests


def everything(ranks: Ranks, folder: str) -> dict[str, Any]:
    """The tasks above in one start."""
    return {
        "table": table(ranks),
        "resume": resume(ranks, folder),
        "nonfinite": nonfinite(ranks),
        "loss_scale": loss_scale(ranks),
        "supernet": supernet(ranks),
    }


def talk(ranks: Ranks) -> dict[str, Any]:
    """What the ranks say to each other."""
    total = comm.all_sum(torch.tensor([1.0 + ranks.rank]))
    try:
        comm.from_main(lambda: 1 // 0)
        error = ""
    except ZeroDivisionError as caught:
        error = str(caught)
    return {
        "ranks": comm.gather((ranks.rank, ranks.local_rank, ranks.world_size)),
        "sum": float(total),
        "broadcast": comm.gather(comm.broadcast({"from": ranks.rank})),
        "from_main": comm.gather(comm.from_main(lambda: ranks.rank)),
        "errors": comm.gather(error),
    }


def main(out: str, task: str, *args: str) -> None:
    ranks = comm.init("cpu", timeout=60)
    result = globals()[task](ranks, *args)
    if ranks.is_main:
        Path(out).write_text(json.dumps({"result": result}))
    comm.close()


if __name__ == "__main__":
    main(*(arg for arg in sys.argv[1:] if not arg.startswith("--local_rank")))

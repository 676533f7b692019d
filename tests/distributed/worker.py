"""Program for a launcher: ``worker.py OUT.json TASK [ARGS]``. Rank 0 writes the result of the task as JSON."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import re
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from tests.distributed import deepspeed_tasks
from tests.helpers import toy_supernet as toy
from tests.helpers.toy_supernet import Case
from vitas_ds import config
from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.distributed import comm
from vitas_ds.distributed.comm import Ranks
from vitas_ds.engine.engine import Engine
from vitas_ds.models.flat import named_tensors, tensor_places
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.training import checkpoint, checkpoint_files
from vitas_ds.training.checkpoint_reader import consolidate

STAGES = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
VARIANTS = [(zero, flat) for zero in STAGES for flat in (False, True)]  # with ordinary and with flat parameters


def table(ranks: Ranks) -> list[dict[str, Any]]:
    """Stage x precision x clipping x accumulation; then for each stage several subnets per step, averaged weights."""
    cases = []
    for (zero, flat), precision, clip, accumulate in itertools.product(VARIANTS, ("fp32", "bf16"), (0.0, 1.0), (1, 2)):
        cases.append(Case(zero, precision, clip=clip, accumulate=accumulate, flat=flat))
    for zero, flat in VARIANTS:
        case = Case(zero, clip=1.0, subnets=2, flat=flat)
        cases.append(replace(case, ema=0.9))
        cases.append(replace(case, joint=True, accumulate=2))
        cases.append(replace(case, forwards_first=True, accumulate=2))
        cases.append(replace(case, precision="bf16", forwards_first=True, ema=0.9))
    return [_row(case, ranks) for case in cases]


_reference = cache(toy.reference)


def _row(case: Case, ranks: Ranks) -> dict[str, Any]:
    """Return the distance to plain torch, and the unused weights that changed."""
    same = replace(case, zero="zero0", flat=False)  # all have the same reference: it is computed once
    weights, ema, norms = _reference(same)
    engine = toy.start(case, ranks)
    before, moved, observed = toy.gather_tensors(engine), [], []
    for step in range(case.steps):
        observed.append(toy.train_step(engine, case, step))
        after = toy.gather_tensors(engine)
        moved += [name for name in toy.unused_names(engine, case, step) if not torch.equal(before[name], after[name])]
        before = after
    return {
        "case": str(case),
        "precision": case.precision,
        "weights": toy.max_difference(before, weights),
        "ema": toy.max_difference(toy.gather_tensors(engine, "ema"), ema) if case.ema else 0.0,
        "norms": max(abs(a - b) / b for a, b in zip(observed, norms, strict=True)),
        "moved": moved,
        "zero_grads": toy.max_difference(_reference(same, zero_grads=True)[0], weights),
    }


def resume(ranks: Ranks, folder: str) -> list[dict[str, Any]]:
    """8 steps against 4 steps, save, load into a new engine, 4 steps: the full states must be bitwise equal."""
    rows = []
    for zero, flat in VARIANTS:
        case = Case(zero, "bf16" if zero == "zero1" else "fp32", clip=1.0, ema=0.9, subnets=2, flat=flat)
        uninterrupted = toy.start(case, ranks)
        norms = toy.train(uninterrupted, case, 0, 8)
        interrupted = toy.start(case, ranks)
        toy.train(interrupted, case, 0, 4)
        path = checkpoint.save(interrupted, Path(folder) / f"{zero}-{flat}", 4, {"epoch": 1})
        resumed = toy.start(case, ranks)
        with torch.no_grad():
            resumed.model.scale.fill_(9.0)
        state = checkpoint.load(resumed, path)
        same_norms = toy.train(resumed, case, 4, 8) == norms[4:]
        a, b = toy.full_state(uninterrupted), toy.full_state(resumed)
        averages = toy.gather_tensors(interrupted, "ema") | _scale()
        rows.append({
            "variant": [zero, flat],
            "state": state,
            "norms": same_norms,
            "differ": [name for name in a if not torch.equal(a[name], b[name])],
            "buffer": float(resumed.model.scale),
            "saved": float(toy.max_difference(consolidate(path), toy.gather_tensors(interrupted) | _scale())),
            "ema": float(toy.max_difference(consolidate(path, ema=True), averages)),
        })  # fmt: skip
    return rows


def _scale() -> dict[str, torch.Tensor]:
    return {"scale": torch.tensor([0.5])}


def continue_training(ranks: Ranks, folder: str, first: str, last: str, *zeros: str) -> list[dict[str, Any]]:
    """Load the checkpoint of an earlier job (other ranks or ZeRO stage), check it, train, save; one chain per stage."""
    rows = []
    for chain, zero in enumerate(zeros):
        directory = Path(folder) / str(chain)
        flat = (chain + int(first)) % 2 == 0  # a checkpoint does not depend on the layout of the parameters
        engine = toy.start(Case(zero, clip=1.0, flat=flat), ranks)
        path = checkpoint_files.newest(directory)
        row: dict[str, Any] = {"world_size": ranks.world_size, "loaded": path and path.name}
        if path:
            checkpoint.load(engine, path)
            row["exact"] = toy.max_difference(consolidate(path), toy.gather_tensors(engine) | _scale())
        toy.train(engine, Case(zero, clip=1.0), int(first), int(last))
        checkpoint.save(engine, directory, int(last), {})
        row["reference"] = toy.max_difference(
            toy.reference(Case(clip=1.0, steps=int(last)))[0], toy.gather_tensors(engine)
        )
        rows.append(row)
    return rows


def nonfinite(ranks: Ranks) -> list[dict[str, Any]]:
    """NaN on the last rank only: all ranks skip the step, nothing changes, and later steps are as without it."""
    rows = []
    for zero, flat in VARIANTS:
        case = Case(zero, clip=1.0, ema=0.9, flat=flat)
        engine, clean = toy.start(case, ranks), toy.start(case, ranks)
        toy.train(engine, case, 0, 3)
        before = toy.full_state(engine)
        x, _ = toy.batch_of(0, 4)
        loss = engine(x, toy.subnets_of(0, 1)[0]).sum()
        engine.backward(loss * (float("nan") if ranks.rank == ranks.world_size - 1 else 1.0))
        norm = engine.step(engine.model.units_used(toy.subnets_of(0, 1)[0]), 0.1).norm
        after = toy.full_state(engine)
        toy.train(engine, case, 3, 6)
        toy.train(clean, case, 0, 6)
        a, b = toy.full_state(engine), toy.full_state(clean)
        rows.append({
            "variant": [zero, flat],
            "norms": [str(n) for n in comm.gather(norm)],
            "moved": [name for name in before if not torch.equal(before[name], after[name])],
            "later": [name for name in a if not torch.equal(a[name], b[name])],
        })  # fmt: skip
    return rows


def loss_scale(ranks: Ranks) -> list[dict[str, Any]]:
    """The fp16 loss scale: a power of two does not change fp32 training; an overflow halves it and skips the step."""
    rows = []
    for zero, flat in VARIANTS:
        case = Case(zero, clip=1.0, accumulate=2, flat=flat)
        plain, scaled = toy.start(case, ranks), toy.start(case, ranks)
        scaled.loss_scale.dynamic, scaled.loss_scale.value = True, 1024.0
        scaled._set_loss_scale()
        same_norms = toy.train(plain, case, 0, 4) == toy.train(scaled, case, 0, 4)
        a, b = toy.full_state(plain), toy.full_state(scaled)
        scaled.loss_scale.value = 2.0**130
        scaled._set_loss_scale()
        norm = toy.train_step(scaled, case, 4)
        c = toy.full_state(scaled)
        rows.append({
            "variant": [zero, flat],
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
SPECS = [  # with different patch sizes, identities, widths and head counts
    SubnetSpec(16, 8, 20, 4, (LayerSpec(2, 60, 40), None, LayerSpec(1, 30, 20))),
    SubnetSpec(16, 4, 10, 4, (LayerSpec(1, 18, 8), LayerSpec(2, 36, 12))),
    SubnetSpec(16, 8, 14, 4, (None, LayerSpec(2, 60, 40), LayerSpec(2, 12, 36))),
]


ELASTIC = SearchSpace(
    image_size=16, patch_sizes=(4,), depth=3, num_heads=(1, 2, 3), embed_dim=20, qkv_dim=36, mlp_dim=40, num_classes=4,
    min_depth=2, ratios=(0.5, 1.0),
    elastic={"head_dim": 4, "drop_order": (1, 0, 2), "prefix_tokens": 2, "classifiers": 2, "layer_scale": True},
)  # fmt: skip
WHOLE = genome.decode(ELASTIC, genome.largest(ELASTIC))
ELASTIC_SPECS = [  # the pretrained network, one with parts of heads and without a layer, and one without a head
    WHOLE,
    replace(WHOLE, embed_dim=10, layers=(LayerSpec(2, 12, 20, 0.5), None, LayerSpec(3, 36, 20))),
    replace(WHOLE, layers=(LayerSpec(3, 18, 40, 0.5), LayerSpec(1, 12, 40), LayerSpec(2, 24, 20))),
]


def supernet(ranks: Ranks) -> list[dict[str, Any]]:
    """Compare the real supernet of a usual space and that of a pretrained network with plain torch."""
    return _train_supernet(ranks, SPACE, SPECS, 2) + _train_supernet(ranks, ELASTIC, ELASTIC_SPECS, 0)


def _random_supernet(space: SearchSpace, private_attention: int) -> Supernet:
    """Return a supernet without tiny gradients: with these, AdamW would follow rounding errors."""
    net = Supernet(space, "bilateral", private_attention)
    init_weights(net, 2 if space.elastic.on else 0)
    tokens = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in named_tensors(net).items():
            p.mul_(1e5 if name.endswith("gamma") else 10 if p.ndim in (2, 4) else 1)
            if space.elastic.on and p.ndim == 3:  # tokens of zeros have large gradients, beside which others vanish
                p.add_(torch.randn(p.shape, generator=tokens))
    return net


def _train_supernet(
    ranks: Ranks, space: SearchSpace, three: list[SubnetSpec], private_attention: int
) -> list[dict[str, Any]]:
    """Train both sides of bilateral sharing, two subnets in every third step, in every ZeRO stage."""

    def specs(step: int) -> list[SubnetSpec]:
        return [three[step % 3]] if step % 3 else [three[0], three[1]]

    def losses(call: Any, step: int, low: int, high: int) -> list[torch.Tensor]:
        rng = torch.Generator().manual_seed(step)
        images, labels = torch.randn(4, 3, 16, 16, generator=rng), torch.randint(4, (4,), generator=rng)
        return [
            torch.nn.functional.cross_entropy(call(images[low:high], spec).float().sum(0), labels[low:high])
            for spec in specs(step)
        ]

    fresh = partial(_random_supernet, space, private_attention)
    twin, training = fresh(), config.Training(batch_size=4, clip_grad=1.0)
    adamw = toy.TensorAdamW(twin, training, lr=1e-2)
    for step in range(6):
        twin.zero_grad()
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
        expected = {name: p.detach() for name, p in named_tensors(twin).items()}
        got = toy.gather_tensors(engine)
        for name in [name for name in got if re.search(r"\.k\d*_bias$", name)]:
            del (
                got[name],
                expected[name],
            )  # softmax cancels this bias: its gradient is a rounding error, which AdamW amplifies
        worst = max(got, key=lambda name: float((got[name] - expected[name]).abs().max()))
        row = {"zero": zero, "elastic": space.elastic.on, "worst": worst}
        rows.append(row | {"weights": toy.max_difference(got, expected)})
    return rows


def deepspeed_checkpoints(ranks: Ranks, folder: str) -> list[dict[str, Any]]:
    """Save the trained supernet with DeepSpeed's own function, and compare the reader with the engine and DeepSpeed."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    rows = []
    for zero in STAGES:
        net, training = Supernet(SPACE, "bilateral", 2), config.Training(batch_size=4)
        init_weights(net, 0)
        engine = Engine(net, net.units(), config.Engine(zero=zero, precision="fp32"), training, ranks)
        for step in range(3):
            rng = torch.Generator().manual_seed(10 * step + ranks.rank)
            images = torch.randn(2, 3, 16, 16, generator=rng)
            engine.backward(engine(images, SPECS[step]).float().square().mean())
            engine.step(net.units_used(SPECS[step]), 1e-2)
        path = Path(folder, zero)
        engine.ds.save_checkpoint(str(path), "tag", client_state={"note": 1})
        expected = toy.gather_tensors(engine)
        row: dict[str, Any] = {"zero": zero}
        if ranks.is_main:
            found = consolidate(path)
            row["engine"] = toy.max_difference(found, expected)
            if engine.stage:  # DeepSpeed's function does not read stage 0
                theirs = get_fp32_state_dict_from_zero_checkpoint(str(path), "tag")
                names = {parameter: f"model.{name}" for name, parameter in net.named_parameters()}
                places = tensor_places(net)
                cut = {name: place.within(theirs[names[place.parameter]]) for name, place in places.items()}
                row["zero_to_fp32"] = toy.max_difference(found, cut)
        rows.append(comm.broadcast(row))
    return rows


def deepspeed(ranks: Ranks, folder: str) -> dict[str, Any]:
    """Run the tasks with DeepSpeed's checkpoints in one job."""
    foreign = deepspeed_checkpoints(ranks, folder)
    return {
        "foreign": foreign,
        "resume": deepspeed_tasks.deepspeed_resume(ranks, folder) if ranks.world_size > 1 else [],
    }


def keep_two(directory: Path, step: int) -> None:
    checkpoint_files.prune(directory, keep=2, step=step)


def train_to_end(ranks: Ranks, folder: str, steps: str) -> list[str]:
    """Resume and train to the end in each stage, with a checkpoint after every step. Returns digests of all tensors."""
    Path(folder, f"pid-{ranks.rank}").write_text(str(os.getpid()))
    digests = []
    for zero in STAGES:
        case, directory = Case(zero, clip=1.0, ema=0.9), Path(folder, zero)
        engine, path = toy.start(case, ranks), checkpoint_files.newest(directory)
        done = checkpoint.load(engine, path)["done"] if path else 0
        with checkpoint.Saver(engine, directory, after=partial(keep_two, directory)) as saver:
            for step in range(done, int(steps)):
                toy.train_step(engine, case, step)
                saver.poll()
                saver.save(step + 1, {"done": step + 1})
            saver.wait()
        tensors = toy.full_state(engine)
        digests += [f"{zero} {name} {hashlib.sha256(t.numpy()).hexdigest()}" for name, t in tensors.items()]
    return digests


def everything(ranks: Ranks, folder: str) -> dict[str, Any]:
    """Run the tasks above in one job."""
    toy.start(Case("zero3"), ranks)  # imports all of DeepSpeed
    gc.collect()
    gc.freeze()  # DeepSpeed collects garbage in each engine with ZeRO 3: a third of the time with all these modules
    return {
        "table": table(ranks),
        "resume": resume(ranks, folder),
        "nonfinite": nonfinite(ranks),
        "loss_scale": loss_scale(ranks),
        "supernet": supernet(ranks),
    }


def collectives(ranks: Ranks) -> dict[str, Any]:
    """Return the results of all collectives."""
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
    result = (globals() | vars(deepspeed_tasks))[task](ranks, *args)
    if ranks.is_main:
        Path(out).write_text(json.dumps({"result": result}))
    comm.close()


if __name__ == "__main__":
    main(*(arg for arg in sys.argv[1:] if not arg.startswith("--local_rank")))

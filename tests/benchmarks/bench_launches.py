"""Count the operator calls, bytes and waits of a training step as on a GPU, without a GPU, in about a minute.

    python -m tests.benchmarks.bench_launches [--json FILE]
    python -m tests.benchmarks.bench_launches --check tests/benchmarks/results/launches.json
    python -m tests.benchmarks.bench_launches --operators bilateral 16      calls of each operator
    python -m tests.benchmarks.bench_launches --device cuda                 also the kernels of a profile (not yet run)

Small networks are limited by the host, which issues one call after the other. The counts do not depend on the machine.
A call is an ATen operator that runs a kernel: no views and no allocations. A custom operator is one call.

Forward and backward pass run on fake CUDA tensors in bf16 (fake_cuda.py), with batch 128. The step of the engine runs
with real tensors on the CPU, because DeepSpeed needs values. Scoring counts one batch of 256 images. A copy between
host and device is not a call there unless the code passes a device to ``torch.tensor``. The networks have 0.90 to
0.95 GMACs, one of each patch size.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks import cpu_step
from tests.benchmarks.call_counter import CallCounter
from tests.benchmarks.fake_cuda import CUDA, fake_cuda, to_fake
from tests.benchmarks.timing import table, write
from vitas_ds import config
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.data.loader import normalize
from vitas_ds.distributed.comm import Ranks
from vitas_ds.models.channels import Rule
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.search.scoring.scorer import Scorer
from vitas_ds.training.losses import cross_entropy

BATCH, IMAGE, CLASSES = 128, 224, 1000
NETS = ((14, 77, 9), (16, 230, 9), (32, 384, 15))  # patch_size, embed_dim, depth
GROWTH = 1.02  # of a count, above which --check fails
COUNTS = (
    "forward_backward", "step_zero0", "step_zero1", "waits_zero0", "waits_zero1", "scoring", "waits_scoring",
)  # fmt: skip
SCORED = 256  # images of a batch of scoring
Row = dict[str, Any]
Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and targets


def main() -> int:
    """Parse the command line, count, and return the exit status."""
    args = _arguments()
    torch.set_num_threads(1)
    if args.operators:
        rule, patch = args.operators[0], int(args.operators[1])
        counter = forward_backward(*_network(rule, {s.patch_size: s for s in networks()}[patch]))
        print("\n".join(f"{count:6} {name}" for name, count in counter.calls.most_common()))
        return 0
    rows = count_all()
    result = {"graphs": graphs(), "rows": rows}
    print(f"{table(rows)}\ngraphs: {result['graphs']}")
    if args.device == "cuda":
        result["profile"] = profiled(rows, torch.device("cuda", 0))
        print(f"\na real step, profiled\n{table(result['profile'])}")
    write(args.json, result)
    grown = compare(json.loads(Path(args.check).read_text()), result) if args.check else []
    print("".join(f"grown: {line}\n" for line in grown), end="")
    return int(bool(grown))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", help="output file")
    parser.add_argument("--check", help="fail if a count is more than 2 % above that in this file")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: profile real steps too")
    parser.add_argument("--operators", nargs=2, metavar=("RULE", "PATCH"), help="only the calls of one network")
    return parser.parse_args()


def networks() -> list[SubnetSpec]:
    """Return the first random network of each entry in ``NETS``."""
    space = SearchSpace()
    found = genome.sample(space, np.random.default_rng(0), 300_000, identity_prob=0.4)
    widths = genome.width_table(space, found)
    macs, depth = cost.macs(widths), (widths.num_heads > 0).sum(1)
    specs = []
    for patch_size, embed_dim, layers in NETS:
        fits = (widths.patch_size == patch_size) & (widths.embed_dim == embed_dim) & (depth == layers)
        specs.append(genome.decode(space, found[fits & (macs >= 0.90e9) & (macs <= 0.95e9)][0]))
    return specs


def count_all() -> list[Row]:
    """Return one row for each rule and network, and one for timm's deit_small."""
    specs = networks()
    rows = [_row(rule, spec) for rule in ("bilateral", "ordinal", "plain") for spec in specs]
    for zero in ("zero0", "zero1"):
        supernet = cpu_step.supernet_steps("bilateral", zero, specs)
        counts = [*supernet, *supernet, *cpu_step.plain_steps(zero, specs)]  # the step is that of the parameters
        for row, (calls, waits) in zip(rows, counts, strict=True):
            row[f"step_{zero}"], row[f"waits_{zero}"] = calls, waits
    for row, (rule, spec) in zip(rows, product(("bilateral", "ordinal"), specs), strict=False):
        row["scoring"], row["waits_scoring"] = scoring(rule, spec)
    return [*rows, _row("timm", SubnetSpec(IMAGE, 16, 384, CLASSES, ()))]


def _row(rule: str, spec: SubnetSpec) -> Row:
    counter = forward_backward(*_network(rule, spec))
    return {
        "rule": rule, "patch": spec.patch_size, **dict.fromkeys(COUNTS),
        "forward_backward": counter.calls.total(), "unaligned_flops": round(counter.unaligned_flops, 4),
        "gigabytes": round(counter.bytes / 1e9, 2),
    }  # fmt: skip


def _network(
    rule: str, spec: SubnetSpec
) -> tuple[nn.Module, Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Return a model, its forward pass and its loss, as in the stages."""
    if rule == "timm":
        model = timm.create_model("deit_small_patch16_224")
        return model, model, nn.functional.cross_entropy
    if rule == "plain":
        model = VisionTransformer(spec, class_token_only=True)
        return model, model, lambda logits, targets: cross_entropy(logits[None], targets, "loss_mean")
    supernet = Supernet(SearchSpace(), rule, class_token_only=True)  # type: ignore[arg-type]
    objective = config.Supernet().objective
    return supernet, lambda x: supernet(x, spec), lambda logits, targets: cross_entropy(logits, targets, objective)


def forward_backward(model: nn.Module, forward: Callable[..., Tensor], loss: Loss) -> CallCounter:
    """Count the calls of forward pass, loss and backward pass."""
    with fake_cuda() as mode:
        to_fake(model, mode)
        images = torch.empty(BATCH, 3, IMAGE, IMAGE, device="cuda")
        targets = torch.empty(BATCH, CLASSES, device="cuda")
        with CallCounter() as counter:
            with torch.autocast("cuda", torch.bfloat16):
                logits = forward(images)
            loss(logits, targets).backward()
    return counter


def profiled(rows: list[Row], device: torch.device) -> list[Row]:
    """Count the launches of real forward and backward passes (kernels, copies, fills), next to the counted calls."""
    found = []
    specs = {spec.patch_size: spec for spec in networks()}
    for row in rows:
        model, forward, loss = _network(row["rule"], specs[row["patch"]])
        step = real_step(model.to(device), forward, loss, device)
        for _ in range(2):
            step()
        activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
        with profile(activities=[ProfilerActivity.CPU, activity]) as recorded:
            step()
        events = [event for event in recorded.events() if event.device_type.name == device.type.upper()]
        counted = {"rule": row["rule"], "patch": row["patch"], "counted calls": row["forward_backward"]}
        found.append(counted | {"launches": len(events)})
    return found


def real_step(
    model: nn.Module, forward: Callable[..., Tensor], loss: Loss, device: torch.device, batch: int = BATCH
) -> Callable[[], None]:
    """Return a forward and backward pass of real tensors in bf16."""
    images = torch.randn(batch, 3, IMAGE, IMAGE, device=device)
    targets = torch.full((batch, CLASSES), 1 / CLASSES, device=device)

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        with torch.autocast(device.type, torch.bfloat16):
            logits = forward(images)
        loss(logits, targets).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def scoring(rule: Rule, spec: SubnetSpec) -> tuple[int, int]:
    """Return the calls of a batch of a candidate, and the waits of the whole candidate."""
    supernet, data = Supernet(SearchSpace(), rule, class_token_only=True), config.Data()
    with fake_cuda() as mode:
        to_fake(supernet, mode)
        pixels = torch.empty(2 * SCORED, 3, IMAGE, IMAGE, dtype=torch.uint8, device="cuda")
        labels = torch.zeros(2 * SCORED, dtype=torch.int64, device="cuda")
        ranks = Ranks(0, 1, 0, CUDA)
        one, two = (
            Scorer(supernet, pixels, labels, lambda x: normalize(x, data), np.arange(count), ranks, SCORED,
                   autocast=torch.bfloat16)
            for count in (SCORED, 2 * SCORED)
        )  # fmt: skip
        counters = []
        for scorer in (one, two, one, two):  # the first two fill caches
            with CallCounter() as counter:
                scorer.count(spec)
            counters.append(counter)
    return counters[3].calls.total() - counters[2].calls.total(), counters[3].waits


def graphs(count: int = 60) -> int:
    """Return the graphs that ``torch.compile`` needs for the block of ``count`` random networks.

    The patches are large and the tokens few, because only the number of different shapes matters.
    """
    space = SearchSpace(patch_sizes=(32, 56, 112))
    supernet = Supernet(space, "bilateral", class_token_only=True)
    supernet.pad_multiple = 8  # as on CUDA
    supernet.compile_blocks(backend="eager")
    found = genome.sample(space, np.random.default_rng(1), count, identity_prob=0.4)
    counters.clear()
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=count * space.depth):
        for row in found:
            supernet(torch.zeros(1, 3, IMAGE, IMAGE), genome.decode(space, row))
    return counters["stats"]["unique_graphs"]


def compare(stored: Row, new: Row) -> list[str]:
    """Return a line for each count that grew by more than 2 %."""
    pairs = [("graphs", stored["graphs"], new["graphs"])]
    old_rows = {(row["rule"], row["patch"]): row for row in stored["rows"]}
    for row in new["rows"]:
        old = old_rows.get((row["rule"], row["patch"]), {})
        pairs += [(f"{row['rule']} {row['patch']} {name}", old.get(name), row[name]) for name in COUNTS]
    return [f"{name}: {a} -> {b}" for name, a, b in pairs if a is not None and b is not None and b > a * GROWTH]


if __name__ == "__main__":
    sys.exit(main())

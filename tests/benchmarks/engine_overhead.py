"""Step time under DeepSpeed against plain torch (DDP on several ranks) for the same network, interleaved.

    python -m tests.benchmarks.engine_overhead [STAGES] [--device cuda] [--json FILE]          one rank
    torchrun --nproc_per_node 2 -m tests.benchmarks.engine_overhead

The network is a vit_tiny (5.5 M parameters) as in retrain, with batch size 16 per rank, AdamW and gradient clipping.
On CUDA, the engine runs in bf16 and the plain step in autocast. The result is the median step times and their ratio.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.benchmarks.timing import wait, where, write
from vitas_ds import config
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.distributed import comm, console
from vitas_ds.engine.ds_config import zero_stage
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.models.vit import VisionTransformer

SPEC = SubnetSpec(224, 16, 192, 1000, (LayerSpec(3, 576, 768),) * 12)
IMAGE = 224


def torch_step(model: nn.Module, ranks: comm.Ranks) -> Callable[[torch.Tensor], None]:
    """Return a training step in torch: fused AdamW, gradient clipping, and DDP if there are several ranks."""
    wrapped = nn.parallel.DistributedDataParallel(model) if ranks.world_size > 1 else model
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(images: torch.Tensor) -> None:
        adamw.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            logits = wrapped(images)
        logits.float().square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()

    return step


def engine_step(model: nn.Module, zero: str, batch: int, ranks: comm.Ranks) -> Callable[[torch.Tensor], None]:
    """Return a training step with the engine."""
    training = config.Training(batch_size=batch * ranks.world_size, clip_grad=1.0)
    units = {name: list(child.parameters()) for name, child in model.named_children()}
    units["rest"] = [p for name, p in model.named_parameters() if "." not in name]
    units = {name: params for name, params in units.items() if params}
    precision = "bf16" if ranks.device.type == "cuda" else "fp32"
    engine = Engine(model, units, config.Engine(zero=zero, precision=precision), training, ranks)  # type: ignore[arg-type]

    def step(images: torch.Tensor) -> None:
        engine.backward(engine(images).float().square().mean())
        engine.step(units, 1e-4)

    return step


def measure(stages: list[str], device: str = "cpu", batch: int = 16, count: int = 12) -> list[dict[str, Any]]:
    """Return the median step times and their ratio to torch: one row for torch and one for each ZeRO stage.

    Raises:
        UserError: A ZeRO stage does not exist, or the device.
    """
    for stage in stages:
        zero_stage(config.Engine(zero=stage))
    ranks = comm.init(device, timeout=120)
    torch.manual_seed(0)
    model = VisionTransformer(SPEC).to(ranks.device)
    steps = {"torch": torch_step(copy.deepcopy(model), ranks)}
    steps |= {stage: engine_step(copy.deepcopy(model), stage, batch, ranks) for stage in stages}
    times: dict[str, list[float]] = {name: [] for name in steps}
    images = torch.randn(batch, 3, IMAGE, IMAGE).to(ranks.device)
    for i in range(count + 2):
        for name, step in steps.items():
            wait(ranks.device)
            begin = time.perf_counter()
            step(images)
            wait(ranks.device)
            if i >= 2:
                times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        {"step": name, "ranks": ranks.world_size, "ms": value * 1e3, "to torch": value / medians["torch"]}
        for name, value in medians.items()
    ]


def main() -> None:
    """Parse the command line, measure, and print the step times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", default=["zero0", "zero1", "zero2", "zero3"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16, help="images per rank")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_intermixed_args()
    rows = measure(args.stages, args.device, args.batch, args.steps)
    if int(os.environ.get("RANK", "0")) == 0:
        for row in rows:
            print(f"{row['step']:14} {row['ms']:8.1f} ms   {row['to torch']:.3f}", flush=True)
        device = torch.device("cuda" if args.device == "cuda" else "cpu")
        write(args.json, {"arguments": vars(args), "where": where(device), "engine": rows})
    comm.close()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        console.print_once(f"engine_overhead: {error}")
        sys.exit(2)

"""Step time under DeepSpeed against plain torch (DDP on several ranks) for the same network, interleaved.

    python tests/benchmarks/engine_overhead.py [STAGES]          one rank
    torchrun --nproc_per_node 2 tests/benchmarks/engine_overhead.py

The network is a vit_tiny (5.5 M parameters) as in retrain, with batch size 16 per rank, AdamW and gradient clipping.
The result is the median step times and their ratio.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from vitas_ds import config
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.distributed import comm, console
from vitas_ds.engine.ds_config import zero_stage
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.models.vit import VisionTransformer

SPEC = SubnetSpec(224, 16, 192, 1000, (LayerSpec(3, 576, 768),) * 12)
BATCH, STEPS, IMAGE = 16, 12, 224


def torch_step(model: nn.Module, ranks: comm.Ranks) -> Callable[[torch.Tensor], None]:
    """Return a training step in torch: fused AdamW, gradient clipping, and DDP if there are several ranks."""
    wrapped = nn.parallel.DistributedDataParallel(model) if ranks.world_size > 1 else model
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(images: torch.Tensor) -> None:
        adamw.zero_grad()
        wrapped(images).float().square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()

    return step


def engine_step(model: nn.Module, zero: str, ranks: comm.Ranks) -> Callable[[torch.Tensor], None]:
    """Return a training step with the engine."""
    training = config.Training(batch_size=BATCH * ranks.world_size, clip_grad=1.0)
    units = {name: list(child.parameters()) for name, child in model.named_children()}
    units["rest"] = [p for name, p in model.named_parameters() if "." not in name]
    units = {name: params for name, params in units.items() if params}
    engine = Engine(model, units, config.Engine(zero=zero, precision="fp32"), training, ranks)

    def step(images: torch.Tensor) -> None:
        engine.backward(engine(images).float().square().mean())
        engine.step(units, 1e-4)

    return step


def main(stages: list[str]) -> dict[str, float]:
    """Print the step times and return their ratio to torch, by ZeRO stage.

    Raises:
        UserError: A ZeRO stage does not exist.
    """
    for stage in stages:
        zero_stage(config.Engine(zero=stage))
    ranks = comm.init("cpu", timeout=120)
    torch.manual_seed(0)
    model = VisionTransformer(SPEC)
    steps = {"torch": torch_step(copy.deepcopy(model), ranks)}
    steps |= {stage: engine_step(copy.deepcopy(model), stage, ranks) for stage in stages}
    times: dict[str, list[float]] = {name: [] for name in steps}
    images = torch.randn(BATCH, 3, IMAGE, IMAGE)
    for i in range(STEPS + 2):
        for name, step in steps.items():
            begin = time.perf_counter()
            step(images)
            if i >= 2:
                times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in times.items()}
    if ranks.is_main:
        for name, value in medians.items():
            print(f"{name:14} {value * 1e3:8.1f} ms   {value / medians['torch']:.3f}", flush=True)
    comm.close()
    return {name: value / medians["torch"] for name, value in medians.items()}


if __name__ == "__main__":
    try:
        main(sys.argv[1:] or ["zero0", "zero1", "zero2", "zero3"])
    except UserError as error:
        console.print_once(f"engine_overhead: {error}")
        sys.exit(2)

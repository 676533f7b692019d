"""Overhead outside of the network: rates of sampling and encoding specs, a first generation, and Python per step.

    python -m tests.benchmarks.bench_rates [--rounds 5] [--steps 40] [--device cpu] [--json bench_rates.json]

All times are CPU time of one thread. With ``--device cuda``, the network of the step runs on the GPU: the whole step is
then wall-clock time. The step is that of the quickstart (supernet, batch and engine on one rank),
without data loading. Its bookkeeping is the work of the trainer and the engine in addition to the network, the
reduction and AdamW's kernel; the goal is 2 %.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.timing import clock_of, table, where, write
from tests.helpers.digits import write_digits
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.data.loader import Batch
from vitas_ds.distributed import comm
from vitas_ds.distributed.watchdog import Watchdog
from vitas_ds.engine.engine import Engine
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import run_of
from vitas_ds.search.feasible import budget, operators
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.stages import train_supernet
from vitas_ds.stages.common import split_training_images
from vitas_ds.training.schedule import cosine_lr
from vitas_ds.training.task import compute_gradients

BUDGET = {"vitas_flops": (900_000_000, 1_000_000_000)}
Functions = dict[str, tuple[int, Callable[[], Any]]]


def main() -> None:
    """Parse the command line and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="cpu", help="of the step")
    parser.add_argument("--json", default="bench_rates.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "specs": lambda: rates(SearchSpace(), args.rounds),
            "first generation": lambda: first_generation(args.rounds),
            "step": lambda: step_parts(Path(folder), args.steps, torch.device(args.device)),
        }
        for name, part in parts.items():
            found[name] = part()
            print(f"\n{name}\n{table(found[name])}", flush=True)
    write(args.json, {"arguments": vars(args), "where": where(torch.device(args.device))} | found)


def fastest(function: Callable[[], Any], rounds: int) -> float:
    """Return the CPU seconds of the fastest call."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)


def rates(space: SearchSpace, rounds: int, count: int = 20_000) -> list[dict[str, Any]]:
    """Return specs per second in the 1G space."""
    drawn = genome.sample(space, np.random.default_rng(0), count)
    few = drawn[:1000]
    columns, specs = genome.width_table(space, drawn), genome.decode_all(space, few)
    functions: Functions = {
        "drawn": (count, lambda: genome.sample(space, np.random.default_rng(1), count)),
        "converted to canonical form": (count, lambda: genome.canonical(space, drawn)),
        "genomes priced: MACs": (count, lambda: cost.macs(genome.width_table(space, drawn))),
        "genomes priced: all costs": (count, lambda: budget.compute_costs(space, drawn)),
        "tables priced: MACs": (count, lambda: cost.macs(columns)),
        "genomes decoded": (len(few), lambda: genome.decode_all(space, few)),
        "genomes decoded, one by one": (len(few), lambda: [genome.decode(space, row) for row in few]),
        "specs encoded": (len(few), lambda: genome.encode_all(space, specs)),
        "specs encoded, one by one": (len(few), lambda: [genome.encode(space, spec) for spec in specs]),
        "specs turned into tables": (len(few), lambda: WidthTable.from_specs(specs)),
    }
    return [
        {"what": name, "a second": round(n / fastest(function, rounds))} for name, (n, function) in functions.items()
    ]


def first_generation(rounds: int) -> list[dict[str, Any]]:
    """Time the table of all subnets inside a budget, which a search builds once, and drawing 50 subnets from it."""
    space = SearchSpace()
    inside = feasible_set(space, BUDGET)
    functions = {
        "table of all subnets inside the budget": lambda: feasible_set(space, BUDGET),
        "50 feasible subnets": lambda: operators.sample_distinct(inside, 50, np.random.default_rng(0)),
    }
    return [{"what": name, "ms": fastest(function, rounds) * 1e3} for name, function in functions.items()]


def step_parts(folder: Path, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """Return the milliseconds of a step of the quickstart and of its bookkeeping."""
    write_digits(folder, 60, 1)
    paths = [f"data.train={folder}/train", f"data.val={folder}/val", f"run.dir={folder}"]
    cfg = load("quickstart", [*paths, "data.search_per_class=10"])
    ranks = comm.init(device.type, 60)
    images, _ = split_training_images(cfg)
    task = train_supernet.make_task(cfg, run_of(cfg), ranks, images)
    engine = Engine(task.model, task.units, cfg.engine, cfg.supernet, ranks)
    size = cfg.supernet.batch_size
    images = torch.randn(size, 3, 28, 28).to(ranks.device)
    batch = Batch(images, torch.randint(10, (size,)).to(ranks.device), torch.arange(size))

    def median_ms(function: Callable[[int], Any], first: int, clock: Callable[[], float] = time.process_time) -> float:
        times = []
        for step in range(first, first + steps):
            begin = clock()
            function(step)
            times.append(clock() - begin)
        return statistics.median(times) * 1e3

    with Watchdog(folder / "life", "train-supernet", ranks, 600) as watch:
        parts: dict[str, Callable[[int], Any]] = {
            "subnets of the step": lambda step: [task.subnets(step) for _ in range(3)],
            "units in use": lambda step: task.units_used(7),
            "learning rate": lambda step: cosine_lr(cfg.supernet, step, 10),
            "watchdog": lambda step: (watch.at(step, "waiting for data"), watch.at(step, "computing")),
            "parameters that AdamW updates": lambda step: [
                span.unit in engine.optimizer.active for spans in engine.optimizer._spans.values() for span in spans
            ],
        }

        def train_step(step: int) -> None:
            loss = compute_gradients(task, engine, engine.backward, batch, step, ranks.rank)
            engine.step(task.units_used(step), 1e-3, loss)

        whole = median_ms(train_step, 0, clock_of(ranks.device))
        times = {name: median_ms(function, 1000 * (i + 1)) for i, (name, function) in enumerate(parts.items())}
    comm.close()
    times = {"the whole step": whole, "all bookkeeping": sum(times.values())} | times
    return [{"what": name, "ms": value, "share": f"{value / whole:.2%}"} for name, value in times.items()]


if __name__ == "__main__":
    main()

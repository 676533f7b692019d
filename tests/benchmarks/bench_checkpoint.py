"""Time that a save takes from the training loop: in the background against waiting for it.

    python -m tests.benchmarks.bench_checkpoint [--millions 25] [--rounds 9] [--device cpu] [--json FILE]

One process, ZeRO 1. Both kinds of save alternate in one run. Wall-clock time, because a save waits for the disk; on a
busy machine the smallest time is the most reliable one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from tests.benchmarks.timing import table, where, write
from vitas_ds import config
from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.training import checkpoint_files
from vitas_ds.training.checkpoint import Saver

WIDTH = 1000


def main() -> None:
    """Parse the command line and run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--millions", type=int, default=25, help="parameters, in millions")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", default="bench_checkpoint.json")
    args = parser.parse_args()
    ranks = comm.init(args.device)
    engine = make_engine(args.millions, ranks)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(engine, Path(folder), args.rounds)
    print(table(rows))
    write(args.json, {"arguments": vars(args), "where": where(ranks.device), "checkpoint": rows})


def make_engine(millions: int, ranks: comm.Ranks) -> Engine:
    """Return an engine of a network with this many million parameters."""
    net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(millions)))
    settings = config.Engine(zero="zero1", precision="fp32")
    return Engine(net, {"all": list(net.parameters())}, settings, config.Training(batch_size=1), ranks)


def measure(engine: Engine, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Alternate saves with and without waiting. The first round, which allocates memory, does not count."""
    savers = {
        "waiting": Saver(engine, folder / "waiting", asynchronous=False),
        "background": Saver(engine, folder / "background"),
    }
    blocked: dict[str, list[float]] = {name: [] for name in savers}
    for step in range(rounds + 1):
        for name, saver in savers.items():
            seconds = timed(lambda saver=saver, step=step: saver.save(step, {}))  # type: ignore[misc]
            saver.wait()
            checkpoint_files.prune(saver.directory, keep=1)
            if step:
                blocked[name].append(seconds)
    first = min(blocked["waiting"])
    return [
        {"save": name, "seconds blocked, smallest": min(values), "median": statistics.median(values),
         "ratio of the smallest": min(values) / first}
        for name, values in blocked.items()
    ]  # fmt: skip


def timed(function: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()

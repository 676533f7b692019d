"""Predicted against measured latency of networks that did not take part in the fit.

    python -m tests.benchmarks.bench_latency [RECIPE] [section.key=value ...] [--device cuda] [--json FILE]
    python -m tests.benchmarks.bench_latency quickstart --nets 12 --test 6 --max-seconds 0.2      a minute, to try it

The predictor is fitted to ``--nets`` networks within the budget of the recipe, as a search does. ``--test`` further
networks, spread over the same budget, are measured twice: all of them once, then all of them again. Goal: a rank
correlation of predicted and measured latency of at least 0.95. It cannot exceed the one of both rounds by much, which
shows the noise of the machine. Use an idle one; on a busy one, ``--clock cpu`` counts the CPU time of one thread.
Exporting a network of the 1G space for onnxruntime takes about ten seconds. With ``--table``, measurements of the fit
are kept, and a second start continues.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from tests.benchmarks.timing import table, where, write
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.engine.precision import set_backends
from vitas_ds.recipe import load
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.latency.cache import LatencyCache
from vitas_ds.search.latency.calibration import sample_networks
from vitas_ds.search.latency.lines import Latency, describe_setting
from vitas_ds.search.latency.measure import Runtime, current_setting, random_images, time_forward
from vitas_ds.search.latency.predictor import LatencyPredictor, fit_predictor
from vitas_ds.search.runtime import open_runtime

GOAL = 0.95


@dataclass(frozen=True)
class Measurer:
    """Measures networks with one clock and one limit of seconds."""

    runtime: Runtime
    batch_size: int
    max_seconds: float
    clock: Callable[[], float]

    def __call__(self, spec: SubnetSpec) -> Latency:
        """Return the latency of a network."""
        return self.rounds([spec], 1)[0][0]

    def rounds(self, specs: list[SubnetSpec], count: int) -> list[list[Latency]]:
        """Measure all networks ``count`` times, one round after the other. All are in memory."""
        with ExitStack() as stack:
            prepared = [self._prepare(spec, stack) for spec in specs]
            return [
                [
                    time_forward(run, self.runtime.device, max_seconds=self.max_seconds, clock=self.clock)
                    for run in prepared
                ]
                for _ in range(count)
            ]

    def _prepare(self, spec: SubnetSpec, stack: ExitStack) -> Callable[[], Tensor]:
        print(".", end="", file=sys.stderr, flush=True)
        images = random_images(spec, self.batch_size, self.runtime.device)
        return stack.enter_context(self.runtime.prepare(spec, images))


def main() -> None:
    """Parse the command line, measure, and print the result."""
    args = _arguments()
    config = load(args.recipe, [*args.overrides, "search.latency_table=null"])
    device = torch.device(args.device)
    set_backends(config.engine)
    runtime = open_runtime(config, device)
    assert runtime is not None, "the table is null"
    if args.clock == "cpu":
        torch.set_num_threads(1)  # the clock counts only the calling thread
    clock = time.thread_time if args.clock == "cpu" else time.perf_counter
    measure = Measurer(runtime, config.search.latency_batch_size, args.max_seconds, clock)
    fitted, tested = choose(config, args.nets, args.test)
    with tempfile.TemporaryDirectory() as folder:
        path = args.table or Path(folder) / "latency.jsonl"
        cache = LatencyCache(path, current_setting(runtime, measure.batch_size), measure)
        predictor = fit_predictor(fitted, cache.measure(fitted), config.run.seed)
    rounds = measure.rounds(tested, 2)
    print(file=sys.stderr)
    rows = rows_of(tested, predictor, rounds)
    result = compare(predictor, rows) | {"nets": len(fitted), "goal": GOAL}
    print(f"{args.recipe}: {describe_setting(cache.setting)}\n{table(rows)}\n\n{table([result])}")
    write(args.json, {
        "what": "latency", "recipe": args.recipe, "overrides": args.overrides, "clock": args.clock,
        "setting": cache.setting,
        "where": where(device), "result": result, "networks": rows,
    })  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", nargs="?", default="vitas_1g_bcnet")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--nets", type=int, default=48, help="networks of the fit")
    parser.add_argument("--test", type=int, default=20, help="other networks, to test the prediction")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-seconds", type=float, default=4.0, help="of a measurement")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--table", type=Path, metavar="FILE.jsonl", help="keep the measurements of the fit")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_intermixed_args()


def choose(config: Config, nets: int, test: int) -> tuple[list[SubnetSpec], list[SubnetSpec]]:
    """Return the networks of the fit, and others within the same budget."""
    budget = budgets.from_config(config.search)
    fitted = sample_networks(config, budget, nets)
    other = config.model_copy(update={"run": config.run.model_copy(update={"seed": config.run.seed + 1})})
    known = {spec.key() for spec in fitted}
    return fitted, [spec for spec in sample_networks(other, budget, nets + test) if spec.key() not in known][:test]


def rows_of(tested: list[SubnetSpec], predictor: LatencyPredictor, rounds: list[list[Latency]]) -> list[dict[str, Any]]:
    """Return a row for each tested network, fastest first. Times are in milliseconds."""
    predicted = predictor(WidthTable.from_specs(tested))
    rows = [
        {
            "patch": spec.patch_size, "embed_dim": spec.embed_dim, "depth": spec.depth,
            "predicted": seconds * 1e3, "measured": first.seconds * 1e3, "again": again.seconds * 1e3,
            "spread": None if first.spread is None else first.spread * 1e3, "runs": first.runs,
        }
        for spec, seconds, first, again in zip(tested, predicted.tolist(), *rounds, strict=True)
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["measured"])


def compare(predictor: LatencyPredictor, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return rank correlation and mean relative error of the prediction, and of a second measurement."""
    predicted, first, again = (np.array([row[name] for row in rows]) for name in ("predicted", "measured", "again"))
    return {
        "tested": len(rows),
        "rank correlation": float(spearmanr(predicted, first).statistic),
        "error": float(abs(predicted / first - 1).mean()),
        "of a repeat": float(spearmanr(again, first).statistic),
        "its error": float(abs(again / first - 1).mean()),
        "held out": predictor.correlation,
        "its mean error": predictor.error,
    }


if __name__ == "__main__":
    main()

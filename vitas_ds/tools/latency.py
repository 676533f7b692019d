"""``vitas latency``: measure networks of a recipe's search space, as a table for ``search.latency_table``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from vitas_ds.config import Config
from vitas_ds.distributed import comm
from vitas_ds.engine.precision import set_backends
from vitas_ds.errors import UserError
from vitas_ds.recipe import load
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.latency.cache import LatencyCache
from vitas_ds.search.latency.calibration import measurer, sample_networks
from vitas_ds.search.latency.limits import MIN_NETWORKS
from vitas_ds.search.latency.lines import check_lines, describe_setting
from vitas_ds.search.latency.measure import Runtime, current_setting
from vitas_ds.search.latency.predictor import fit_predictor
from vitas_ds.search.runtime import open_runtime

PROGRESS_SECONDS = 30.0  # between two lines


def run(args: argparse.Namespace) -> int:
    """Run ``vitas latency RECIPE [section.key=value ...] --out FILE [--nets N]``."""
    config = load(args.recipe, [*args.overrides, "search.latency_table=null"])
    nets = config.search.latency_nets if args.nets is None else args.nets
    if nets < MIN_NETWORKS:
        raise UserError(f"--nets {nets}: must be {MIN_NETWORKS} or more")
    if args.out.is_dir():
        raise UserError(f"--out {args.out}: is a folder; give a file")
    check_lines(args.out)
    device = comm.init(config.run.device, config.run.timeout).device
    set_backends(config.engine)
    runtime = open_runtime(config, device)
    assert runtime is not None, "the table is null"
    measure(config, runtime, nets, args.out)
    return 0


def measure(config: Config, runtime: Runtime, nets: int, out: Path) -> None:
    """Measure networks within the budget, except those in the file, and print how well a predictor fits them."""
    size, seconds = config.search.latency_batch_size, np.zeros(0)
    cache = LatencyCache(out, current_setting(runtime, size), measurer(runtime, size))
    specs = sample_networks(config, budgets.from_config(config.search.covering()), nets)
    print(f"latency: {len(specs)} networks, {describe_setting(cache.setting)}", flush=True)
    printed = time.monotonic()
    for count, spec in enumerate(specs, 1):
        seconds = np.append(seconds, cache.measure([spec]))
        if time.monotonic() - printed > PROGRESS_SECONDS:
            printed = time.monotonic()
            print(f"latency: {count} of {len(specs)} networks", flush=True)
    quality = fit_predictor(specs, seconds, config.run.seed)
    print(
        f"latency: {seconds.min() * 1e3:.4g} to {seconds.max() * 1e3:.4g} ms; on held-out networks, mean error "
        f"{quality.error:.1%}, rank correlation {quality.correlation:.3f}; {out}"
    )

"""Calibrate the latency predictor of a run: measure networks, fit the predictor, and save it.

The fitted predictor of a stage is saved in the folder of the stage (``latency.json``) and reused by every later start:
a resumed search must visit the same candidates. All runs in the same folder share the measurements of single networks
(``runs/latency.jsonl``).
"""
# K networks

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitas_ds.arch import genome
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Config
from vitas_ds.distributed import watchdog
from vitas_ds.distributed.comm import from_main
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.budget import COSTS, Budget, Costs
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.latency.measure import LatencyCache, current_setting, measure_latency
from vitas_ds.search.latency.predictor import LatencyPredictor, fit_predictor

MAX_ERROR = 0.2  # warn if the mean relative error on held-out networks exceeds this


@dataclass(frozen=True)
class LatencyModel:
    """Predicted and measured latencies of one batch, equal on all ranks."""

    predictor: LatencyPredictor
    cache: LatencyCache
    num_measured: int  # networks measured to fit and test the predictor

    @property
    def costs(self) -> Costs:
        """All cost functions, with the predicted latency last."""
        return {**COSTS, "latency": self.predictor.picoseconds}

    def summary(self) -> dict[str, Any]:
        """Return the quality of the predictor on held-out networks, and the setting of the measurements."""
        predictor = self.predictor
        quality = {"nets": self.num_measured, "error": predictor.error, "correlation": predictor.correlation}
        return quality | self.cache.setting

    def describe(self) -> str:
        """Return the summary as one line."""
        setting = self.cache.setting
        return (
            f"latency: measured {self.num_measured} networks on {setting['device']}, batch size "
            f"{setting['batch_size']}, {setting['precision']}; on held-out networks, mean error "
            f"{self.predictor.error:.1%}, rank correlation {self.predictor.correlation:.3f}"
        )


def calibrate(
    config: Config, run: RunDir, path: Path, device: torch.device, budget: Budget, any_device: bool = False
) -> LatencyModel:
    """Load the latency predictor from ``path``, or measure networks and fit it now. All ranks call it.

    Args:
        config: The configuration of the run.
        run: The run, whose folder's parent holds the shared measurements.
        path: File of the fitted predictor (``run.supernet_latency`` or ``run.search_latency``).
        device: The device to measure on.
        budget: Measure networks within this budget, spread evenly. It must not bound the latency itself.
        any_device: Accept a predictor fitted on another device. For stages without later measurements.

    Raises:
        UserError: The saved predictor has another device, software version, batch size or precision.
    """
    search = config.search
    batch_size, precision = search.latency_batch_size, search.latency_precision or config.engine.precision
    setting = from_main(lambda: current_setting(device, batch_size, precision))

    def measure_one(spec: SubnetSpec) -> float:
        watchdog.at("measuring latencies")
        return measure_latency(spec, device, batch_size, precision)

    cache = LatencyCache(run.measured_latencies, setting, measure_one)
    required = {name: setting[name] for name in ("batch_size", "precision")} if any_device else setting
    saved = from_main(lambda: _read(path, required))
    if saved is None:
        rng = np.random.default_rng(config.run.seed)
        genomes = operators.sample_distinct(feasible_set(config.space, budget), search.latency_nets, rng)
        specs = [genome.decode(config.space, row).canonical() for row in genomes]
        seconds = cache.measure(specs)
        saved = from_main(lambda: _write(path, setting, fit_predictor(specs, seconds, config.run.seed), len(specs)))
    predictor = LatencyPredictor(np.array(saved["prices"]), saved["error"], saved["correlation"])
    if predictor.error > MAX_ERROR:
        warnings.warn(
            f"predicted latencies have a mean error of {predictor.error:.0%} on held-out networks; use an idle "
            f"machine or increase search.latency_nets, and delete {path} and {cache.path} to measure again",
            stacklevel=2,
        )
    return LatencyModel(predictor, cache, saved["nets"])


def _read(path: Path, required: dict[str, Any]) -> dict[str, Any] | None:
    """Read a saved predictor and check its setting; None without a file."""
    try:
        saved = json.loads(path.read_text())
        setting = saved["setting"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a latency predictor ({error}); delete it to measure again") from None
    for name, value in required.items():
        if setting.get(name) != value:
            raise UserError(
                f"{path}: measured with {name} {setting.get(name)!r}, not {value!r}; resume with the same device and "
                "software, choose another run.name, or delete the file to measure again"
            )
    return saved


def _write(path: Path, setting: dict[str, Any], predictor: LatencyPredictor, nets: int) -> dict[str, Any]:
    quality = {"error": predictor.error, "correlation": predictor.correlation, "nets": nets}
    saved = {"setting": setting, **quality, "prices": predictor.coefficients.tolist()}
    write_json(path, saved)
    return saved

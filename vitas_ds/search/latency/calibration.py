"""Calibrate the latency predictor of a run: measure networks, fit the predictor, and save it.

The fitted predictor of a stage is saved in the folder of the stage (``latency.json``) and reused by every later start:
a resumed search must visit the same candidates. All runs in the same folder share the measurements of single networks
(``runs/latency.jsonl``). A user's table (``search.latency_table``) replaces the measurements.
"""
# K networks

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
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
from vitas_ds.errors.reading import parse_json_line, read_text
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.budget import COSTS, Budget, Costs
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.latency.cache import LatencyCache
from vitas_ds.search.latency.lines import Latency, describe_setting
from vitas_ds.search.latency.measure import Runtime, cpu_name, current_setting, measure_latency
from vitas_ds.search.latency.predictor import LatencyPredictor, fit_predictor
from vitas_ds.search.latency.table import Table, check_versions, read_table

MAX_ERROR = 0.2  # warn if the mean relative error on held-out networks exceeds this


@dataclass(frozen=True)
class LatencyModel:
    """Predicted and measured latencies of one batch, equal on all ranks."""

    predictor: LatencyPredictor
    cache: LatencyCache
    num_measured: int  # networks measured to fit and test the predictor
    also: tuple[LatencyCache, ...] = ()  # of further batch sizes

    @property
    def costs(self) -> Costs:
        """All cost functions, with the predicted latency last."""
        return {**COSTS, "latency": self.predictor.picoseconds}

    def measure(self, specs: list[SubnetSpec]) -> None:
        """Measure networks with all further batch sizes."""
        for cache in self.also:
            cache.measure(specs)

    def row(self, spec: SubnetSpec) -> dict[str, Any]:
        """Return the measured latency of a network as the fields of ``best.json``; empty if it is not known."""
        latency = self.cache.get(spec)
        if latency is None:
            return {}
        spread = {} if latency.spread is None else {"latency_spread": latency.spread}
        others = {str(cache.setting["batch_size"]): cache.get(spec) for cache in self.also}
        also = {size: other.to_dict() for size, other in others.items() if other is not None}
        return {"latency": latency.seconds, **spread, **({"latency_also": also} if also else {})}

    def summary(self) -> dict[str, Any]:
        """Return the quality of the predictor on held-out networks, and the setting of the measurements."""
        predictor = self.predictor
        quality = {"nets": self.num_measured, "error": predictor.error, "correlation": predictor.correlation}
        return quality | self.cache.setting | {"also": [cache.setting["batch_size"] for cache in self.also]}

    def describe(self) -> str:
        """Return the summary as one line."""
        source = "measured" if self.cache.measure_one else f"{self.cache.path}:"
        return (
            f"latency: {source} {self.num_measured} networks on {describe_setting(self.cache.setting)}; on held-out "
            f"networks, mean error {self.predictor.error:.1%}, rank correlation {self.predictor.correlation:.3f}"
        )


def calibrate(
    config: Config, run: RunDir, path: Path, runtime: Runtime | None, budget: Budget, any_device: bool = False
) -> LatencyModel:
    """Load the latency predictor from ``path``, or measure networks and fit it now. All ranks call it.

    Args:
        config: The configuration of the run.
        run: The run, whose folder's parent holds the shared measurements.
        path: File of the fitted predictor (``run.supernet_latency`` or ``run.search_latency``).
        runtime: What to measure; None to use ``search.latency_table``.
        budget: Measure networks within this budget, spread evenly. It must not bound the latency itself.
        any_device: Accept a predictor fitted on another device. For stages without later measurements.

    Raises:
        UserError: The saved predictor has another setting or table, or the table does not fit the recipe.
    """
    search = config.search
    table = from_main(lambda: open_table(config, budget)) if runtime is None else None
    cache, *also = _open_caches(config, run, runtime) if table is None else [LatencyCache(table.path, table.setting)]
    setting = cache.setting | {"table": table and table.digest}
    saved = from_main(lambda: _read(path, _asked_for(config) if any_device else setting))
    if saved is None:
        specs = [line.spec for line in table.lines] if table else sample_networks(config, budget, search.latency_nets)
        seconds = cache.measure(specs)
        saved = from_main(lambda: _write(path, setting, fit_predictor(specs, seconds, config.run.seed), len(specs)))
    predictor = LatencyPredictor(np.array(saved["prices"]), saved["error"], saved["correlation"] or 0.0)
    if predictor.error > MAX_ERROR:
        fix = f"increase search.latency_nets, and delete {path} and {cache.path} to measure again"
        warnings.warn(
            f"predicted latencies have a mean error of {predictor.error:.0%} on held-out networks; use an idle machine"
            + (" and a table of more networks" if table else f" or {fix}"), stacklevel=2,
        )  # fmt: skip
    return LatencyModel(predictor, cache, saved["nets"], tuple(also))


def sample_networks(config: Config, budget: Budget, count: int) -> list[SubnetSpec]:
    """Return networks within the budget, spread evenly: the same ones for each machine."""
    rng = np.random.default_rng(config.run.seed)
    genomes = operators.sample_distinct(feasible_set(config.space, budget), count, rng)
    return [genome.decode(config.space, row).canonical() for row in genomes]


def measurer(runtime: Runtime, batch_size: int) -> Callable[[SubnetSpec], Latency]:
    """Return a function that measures a network on this machine."""

    def measure_one(spec: SubnetSpec) -> Latency:
        watchdog.at("measuring latencies")
        return measure_latency(spec, runtime, batch_size)

    return measure_one


def _open_caches(config: Config, run: RunDir, runtime: Runtime | None) -> list[LatencyCache]:
    """Return the caches of ``search.latency_batch_size`` and of ``search.latency_also``."""
    assert runtime is not None, "there is a table instead"
    sizes = config.search.latency_batch_size, *config.search.latency_also
    settings = from_main(lambda: [current_setting(runtime, size) for size in sizes])
    return [
        LatencyCache(run.measured_latencies, setting, measurer(runtime, size))
        for size, setting in zip(sizes, settings, strict=True)
    ]


def open_table(config: Config, budget: Budget) -> Table:
    """Read ``search.latency_table``, and compare its versions if it was measured on a device like those here."""
    table = read_table(config.search, config.space, budget)
    cuda = torch.cuda.is_available()
    devices = {cpu_name()} | ({torch.cuda.get_device_name()} if cuda else set())
    check_versions(table, devices, _installed_versions(cuda))
    return table


def _installed_versions(cuda: bool) -> dict[str, str | None]:
    versions: dict[str, str | None] = {"torch": torch.__version__}
    try:
        versions["onnxruntime"] = metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        versions["onnxruntime"] = None
    return versions | ({"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())} if cuda else {})


def _asked_for(config: Config) -> dict[str, Any]:
    """Return the settings fixed by the recipe."""
    search = config.search
    asked = {"batch_size": search.latency_batch_size, "precision": search.latency_precision}
    runtime = None if search.latency_runtime == "auto" else search.latency_runtime
    return {name: value for name, value in (asked | {"runtime": runtime}).items() if value is not None}


def _read(path: Path, required: dict[str, Any]) -> dict[str, Any] | None:
    """Read a saved predictor and check its setting; None without a file."""
    try:
        saved = parse_json_line(read_text(path))
        setting = saved["setting"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a latency predictor ({error}); delete it to measure again") from None
    for name, value in required.items():
        if setting.get(name) != value:
            raise UserError(
                f"{path}: measured with {name} {setting.get(name)!r}, not {value!r}; resume with the same device, "
                "software and table, choose another run.name, or delete the file to measure again"
            )
    return saved


def _write(path: Path, setting: dict[str, Any], predictor: LatencyPredictor, nets: int) -> dict[str, Any]:
    quality = {"error": predictor.error, "correlation": predictor.correlation, "nets": nets}
    saved = {"setting": setting, **quality, "prices": predictor.coefficients.tolist()}
    write_json(path, saved)
    return saved

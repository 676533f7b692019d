"""Latency in a run: nets are measured, the additive prediction becomes a cost of the budget, finds are measured again.

What a stage once fitted is kept in its folder (``latency.json``) and holds for all its starts, so that a resumed
search goes through the same nets. Single measurements are shared by the runs of a folder (``runs/latency.jsonl``).
"""
# K nets

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
from vitas_ds.search.feasible.table import feasible
from vitas_ds.search.latency.measure import Latencies, measure, setting
from vitas_ds.search.latency.predictor import Predictor, fit

ROUGH = 0.2  # mean relative error beyond which a prediction is warned of


@dataclass(frozen=True)
class Timing:
    """Predicted and measured latencies of a batch, the same on all ranks."""

    predictor: Predictor
    measured: Latencies
    nets: int  # measured for the prediction

    @property
    def costs(self) -> Costs:
        """All costs of a net, the predicted latency as the last."""
        return {**COSTS, "latency": self.predictor.picoseconds}

    def numbers(self) -> dict[str, Any]:
        """What is told of the prediction: its errors are on nets that it was not fitted to."""
        told = {"nets": self.nets, "error": self.predictor.error, "correlation": self.predictor.correlation}
        return told | self.measured.where

    def line(self) -> str:
        """The same in words."""
        where = self.measured.where
        return (
            f"latency: {self.nets} nets measured on {where['device']}, batch {where['batch_size']}, "
            f"{where['precision']}; on the held-out ones the prediction is {self.predictor.error:.1%} off on average, "
            f"rank correlation {self.predictor.correlation:.3f}"
        )


def open_timing(
    config: Config, run: RunDir, stage: Path, device: torch.device, budget: Budget, anywhere: bool = False
) -> Timing:
    """The latencies of this run on this device, measured now unless the stage's folder has them. All ranks call it.

    Args:
        stage: the stage's folder.
        budget: the nets to measure are spread over those inside it; it bounds counted costs alone.
        anywhere: a prediction fitted on another device holds here too, where nothing is going to be measured.

    Raises:
        UserError: the stage began on another device, with other software, or another batch or precision.
    """
    search, path = config.search, stage / "latency.json"
    batch, precision = search.latency_batch_size, search.latency_precision or config.engine.precision
    where = from_main(lambda: setting(device, batch, precision))

    def seconds_of(net: SubnetSpec) -> float:
        watchdog.at("measuring latencies")
        return measure(net, device, batch, precision)

    measured = Latencies(run.path.parent / "latency.jsonl", where, seconds_of)
    fixed = {name: where[name] for name in ("batch_size", "precision")} if anywhere else where
    known = from_main(lambda: _read(path, fixed))
    if known is None:
        rng = np.random.default_rng(config.run.seed)
        nets = operators.fresh(feasible(config.space, budget), search.latency_nets, rng)
        specs = [genome.decode(config.space, net).canonical() for net in nets]
        seconds = measured(specs)
        known = from_main(lambda: _write(path, where, fit(specs, seconds, config.run.seed), len(specs)))
    predictor = Predictor(np.array(known["prices"]), known["error"], known["correlation"])
    if predictor.error > ROUGH:
        warnings.warn(
            f"predicted latencies are {predictor.error:.0%} off on held-out nets: the machine is busy, or "
            f"search.latency_nets too few; remove {path} and {measured.path} to measure again", stacklevel=2,
        )  # fmt: skip
    return Timing(predictor, measured, known["nets"])


def _read(path: Path, where: dict[str, Any]) -> dict[str, Any] | None:
    try:
        known = json.loads(path.read_text())
        theirs = known["setting"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what was measured ({error}); remove it to measure again") from None
    for name, value in where.items():
        if theirs.get(name) != value:
            raise UserError(
                f"{path}: measured with {name} {theirs.get(name)!r}, here it is {value!r}; go on there, "
                "give another run.name, or remove the file to measure again"
            )
    return known


def _write(path: Path, where: dict[str, Any], predictor: Predictor, nets: int) -> dict[str, Any]:
    told = {"error": predictor.error, "correlation": predictor.correlation, "nets": nets}
    known = {"setting": where, **told, "prices": predictor.prices.tolist()}
    write_json(path, known)
    return known

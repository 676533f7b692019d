"""Latency of nets: measured on the device at hand, kept on disk, and predicted from a few dozen measurements.

Measured are whole plain networks, as they would be deployed. The predictor is additive: a net's latency is that of its
stem and head plus that of each layer, each a sum of non-negative prices of what it computes.
"""
# K nets, L positions, P priced quantities

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.distributed.comm import from_main
from vitas_ds.engine.precision import autocast
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import to_json


def measure(
    spec: SubnetSpec,
    device: torch.device,
    batch_size: int,
    precision: str,
    repeats: int = 30,
    warmup: int = 5,
    patience: float = 4.0,
) -> float:
    """Seconds of a forward pass of a batch: the median of the repeats that ``typical`` keeps, each synchronised.

    A slow net is repeated until ``patience`` seconds have passed, three times at least.
    """
    network = VisionTransformer(spec).to(device).eval()
    images = torch.zeros(batch_size, 3, spec.image_size, spec.image_size, device=device)
    seconds: list[float] = []
    with torch.inference_mode(), autocast(precision, device):
        while len(seconds) < warmup + repeats and (len(seconds) < 5 or sum(seconds) < patience):
            _synchronise(device)
            begun = time.perf_counter()
            network(images)
            _synchronise(device)
            seconds.append(time.perf_counter() - begun)
    return float(np.median(typical(np.array(seconds[min(warmup, len(seconds) - 3) :]))))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def typical(seconds: np.ndarray) -> np.ndarray:
    """The measurements within three (robust) standard deviations of their median; a busy machine's outliers go."""
    away = abs(seconds - np.median(seconds))
    return seconds[away <= 3 * 1.4826 * np.median(away)]


def setting(device: torch.device, batch_size: int, precision: str) -> dict[str, Any]:
    """What a latency depends on beside the net: the cache holds for this and nothing else."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": None if cuda else torch.get_num_threads(),
        "torch": torch.__version__,
        "driver": f"cuda {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}" if cuda else None,
        "batch_size": batch_size,
        "precision": precision,
    }


def _processor() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Latencies:
    """Measured latencies, each on disk as soon as it is known. All ranks call it; rank 0 measures for all."""

    def __init__(self, path: Path, where: dict[str, Any], measure: Callable[[SubnetSpec], float]) -> None:
        """``where`` is the ``setting`` under which ``measure`` gives seconds; the file may hold others' lines too."""
        self.path, self.where, self.measure = path, where, measure
        self.known: dict[str, float] = from_main(self._read)

    def __call__(self, specs: list[SubnetSpec]) -> np.ndarray:
        """Seconds [K], measured where they are not known."""
        names = [spec.key() for spec in specs]
        self.known = from_main(lambda: self._measured(specs, names))
        return np.array([self.known[name] for name in names])

    def _measured(self, specs: list[SubnetSpec], names: list[str]) -> dict[str, float]:
        for spec, name in zip(specs, names, strict=True):
            if name not in self.known:
                self.known[name] = self.measure(spec)
                self._append({"spec": spec.to_dict(), "seconds": self.known[name], "setting": self.where})
        return self.known

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a") as file:
            file.write(("" if whole else "\n") + to_json(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> dict[str, float]:
        """The lines of this setting; one that is torn or not ours is passed over, for it can be measured again."""
        found = {}
        for text in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                line = json.loads(text)
                if line["setting"] == self.where:
                    found[json.dumps(line["spec"], sort_keys=True)] = float(line["seconds"])
            except (ValueError, KeyError, TypeError):
                continue
        return found

"""Measure the latency of networks on this device, and cache the measurements on disk.

The measured networks are complete plain networks, as they are deployed.
"""
# K networks

from __future__ import annotations

import json
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
from vitas_ds.run.files import append_line, to_json

MIN_REPEATS = 3  # of a network too slow for all repeats


def measure_latency(
    spec: SubnetSpec,
    device: torch.device,
    batch_size: int,
    precision: str,
    repeats: int = 30,
    warmup: int = 5,
    max_seconds: float = 4.0,
) -> float:
    """Measure the seconds of a forward pass of one batch: the median of the repeats without outliers.

    The device is synchronized before and after each repeat. A slow network stops after ``max_seconds``, but runs at
    least five times. At least the last three runs count.
    """
    network = VisionTransformer(spec).to(device).eval()
    images = torch.zeros(batch_size, 3, spec.image_size, spec.image_size, device=device)
    seconds: list[float] = []
    with torch.inference_mode(), autocast(precision, device):
        while len(seconds) < warmup + repeats and (len(seconds) < 5 or sum(seconds) < max_seconds):
            _synchronize(device)
            start = time.perf_counter()
            network(images)
            _synchronize(device)
            seconds.append(time.perf_counter() - start)
    return float(np.median(drop_outliers(np.array(seconds[min(warmup, len(seconds) - MIN_REPEATS) :]))))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def drop_outliers(seconds: np.ndarray) -> np.ndarray:
    """Return the measurements within three robust standard deviations of their median.

    Other work on the machine causes outliers.
    """
    deviation = abs(seconds - np.median(seconds))
    return seconds[deviation <= 3 * 1.4826 * np.median(deviation)]


def current_setting(device: torch.device, batch_size: int, precision: str) -> dict[str, Any]:
    """Return everything a latency depends on except the network: cached measurements are valid only for this."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        "threads": None if cuda else torch.get_num_threads(),
        "torch": torch.__version__,
        "driver": f"cuda {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}" if cuda else None,
        "batch_size": batch_size,
        "precision": precision,
    }


def _cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class LatencyCache:
    """Measured latencies of one setting, each written to disk at once. All ranks call it; only rank 0 measures.

    Attributes:
        path: JSON lines file, shared with other settings.
        setting: The setting of the measurements, see ``current_setting``.
        seconds: Known latencies by ``spec.key()``.
    """

    def __init__(self, path: Path, setting: dict[str, Any], measure_one: Callable[[SubnetSpec], float]) -> None:
        self.path, self.setting, self.measure_one = path, setting, measure_one
        self.seconds: dict[str, float] = from_main(self._read)

    def measure(self, specs: list[SubnetSpec]) -> np.ndarray:
        """Return the seconds of each network [K], and measure those not in the cache."""
        keys = [spec.key() for spec in specs]
        self.seconds = from_main(lambda: self._measure_missing(specs, keys))
        return np.array([self.seconds[key] for key in keys])

    def _measure_missing(self, specs: list[SubnetSpec], keys: list[str]) -> dict[str, float]:
        for spec, key in zip(specs, keys, strict=True):
            if key not in self.seconds:
                self.seconds[key] = self.measure_one(spec)
                line = {"spec": spec.to_dict(), "seconds": self.seconds[key], "setting": self.setting}
                append_line(self.path, to_json(line))
        return self.seconds

    def _read(self) -> dict[str, float]:
        """Read the lines of this setting. Invalid lines are skipped: their networks are measured again."""
        seconds = {}
        for text in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                line = json.loads(text)
                if line["setting"] == self.setting:
                    seconds[json.dumps(line["spec"], sort_keys=True)] = float(line["seconds"])
            except (ValueError, KeyError, TypeError):
                continue
        return seconds

"""Measure the latency of complete plain networks on this machine, in the runtime that deploys them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.search.latency.lines import Latency, Setting

WINDOW = 5  # runs whose medians are compared during the warm-up
TOLERANCE = 0.02  # relative difference of two medians below which the device is warm
MIN_SECONDS = 0.1  # of the warm-up, and of the measurement: clocks and thread pools react this slowly
MIN_REPEATS = 3  # of a network too slow for all repeats

Prepare = Callable[[SubnetSpec, Tensor], AbstractContextManager[Callable[[], Tensor]]]
"""Builds a network of a spec and yields its forward pass on the images [B, 3, H, W], which returns logits. On a GPU it
may return before they are computed."""


@dataclass(frozen=True)
class Runtime:
    """What runs the networks.

    Attributes:
        name: "torch", "cuda-graph" or "onnxruntime".
        precision: "fp32", "bf16" or "fp16".
        device: The device that computes.
        versions: Versions of the libraries that affect the latency.
        prepare: Prepares a network.
    """

    name: str
    precision: str
    device: torch.device
    versions: dict[str, str]
    prepare: Prepare


def measure_latency(
    spec: SubnetSpec, runtime: Runtime, batch_size: int, repeats: int = 30, max_seconds: float = 4.0
) -> Latency:
    """Measure the time of a forward pass of one batch of random images, see ``time_forward``."""
    with runtime.prepare(spec, random_images(spec, batch_size, runtime.device)) as forward:
        return time_forward(forward, runtime.device, repeats, max_seconds)


def random_images(spec: SubnetSpec, batch_size: int, device: torch.device) -> Tensor:
    """Return the images [B, 3, H, W] of a measurement, always the same ones."""
    noise = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, 3, spec.image_size, spec.image_size, generator=noise).to(device)


def time_forward(
    forward: Callable[[], Tensor], device: torch.device, repeats: int = 30, max_seconds: float = 4.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:  # fmt: skip
    """Measure a forward pass after a warm-up.

    The device is synchronized before and after each run. A slow network stops after ``max_seconds``, and its warm-up
    after half of that, but at least three runs count.
    """

    def run() -> float:
        _synchronize(device)
        start = clock()
        forward()
        _synchronize(device)
        return clock() - start

    warm_up(run, max_seconds / 2)
    return repeat(run, repeats, max_seconds)


def warm_up(run: Callable[[], float], max_seconds: float) -> int:
    """Run until the medians of two consecutive windows agree, or for ``max_seconds``. Return the number of runs."""
    seconds: list[float] = []
    while sum(seconds) < max_seconds:
        seconds.append(run())
        if len(seconds) % WINDOW or len(seconds) < 2 * WINDOW or sum(seconds) < MIN_SECONDS:
            continue
        before, after = np.median(seconds[-2 * WINDOW : -WINDOW]), np.median(seconds[-WINDOW:])
        if abs(after - before) <= TOLERANCE * before:
            break
    return len(seconds)


def repeat(run: Callable[[], float], repeats: int, max_seconds: float) -> Latency:
    """Return the median without outliers and the interquartile range of at least ``repeats`` runs.

    Fast networks run more often, slow ones end after ``max_seconds``.
    """
    seconds: list[float] = []
    total = 0.0
    while len(seconds) < MIN_REPEATS or (total < max_seconds and (len(seconds) < repeats or total < MIN_SECONDS)):
        seconds.append(run())
        total += seconds[-1]
    low, high = np.quantile(seconds, [0.25, 0.75])
    return Latency(float(np.median(drop_outliers(np.array(seconds)))), float(high - low), len(seconds))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def drop_outliers(seconds: np.ndarray) -> np.ndarray:
    """Return the measurements within three robust standard deviations of their median.

    Other work on the machine causes outliers.
    """
    deviation = abs(seconds - np.median(seconds))
    return seconds[deviation <= 3 * 1.4826 * np.median(deviation)]


def current_setting(runtime: Runtime, batch_size: int) -> Setting:
    """Return everything a latency depends on except the network: cached measurements are valid only for this."""
    cuda = runtime.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(runtime.device) if cuda else cpu_name(),
        "runtime": runtime.name,
        "batch_size": batch_size,
        "precision": runtime.precision,
        "threads": None if cuda else torch.get_num_threads(),
        "versions": runtime.versions,
    }


def cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

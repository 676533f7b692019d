"""Helpers of the benchmarks: interleaved timing, peak memory, and a description of the machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vitas_ds.run.manifest import git_commit, version_of

Step = Callable[[], Any]
LIBRARIES = ("torch", "triton", "deepspeed", "nvidia-dali-cuda130", "timm", "onnxruntime")


def seconds(steps: Mapping[str, Step], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each step. Steps alternate, and thus share changes of the machine's speed.

    On a CPU this is CPU time over all threads, which other processes hardly affect.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):  # the first one is a warm-up
        for name, step in steps.items():
            wait(device)
            begin = clock()
            step()
            wait(device)
            if i:
                times[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def wait(device: torch.device) -> None:
    """Wait for the work of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return the clock of a device: CPU time, or on a GPU wall-clock time once its work is done."""
    if device.type == "cpu":
        return time.process_time

    def tell() -> float:
        wait(device)
        return time.perf_counter()

    return tell


def peak_bytes(step: Step, device: torch.device) -> int:
    """Return the peak memory of a step above the memory before it; on a CPU resident memory, sampled every ms."""
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        base = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - base
    _trim()
    base = peak = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    done.set()
    watcher.join()
    return peak - base


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _trim() -> None:
    """Return free memory from the allocator to the system. Otherwise the base would include it."""
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)


def where(device: torch.device) -> dict[str, Any]:
    """Return machine, versions and commit: the same keys on a CPU and on a GPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else [*models, platform.processor()][0],
        "driver": nvidia_smi("driver_version"),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "git": git_commit(),
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in LIBRARIES},
    }


def nvidia_smi(field: str) -> str | None:
    """Return a field of the first GPU that nvidia-smi lists, or None without nvidia-smi or GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def gpu_utilization(step: Step, device: torch.device, duration: float = 1.5) -> float | None:
    """Return the mean percentage of time with a kernel on the GPU while ``step`` repeats. None without nvidia-smi."""
    if device.type != "cuda" or nvidia_smi("utilization.gpu") is None:
        return None
    found: list[float] = []
    done = threading.Event()

    def watch() -> None:
        done.wait(duration / 2)  # nvidia-smi averages over the time before its call
        while not done.is_set():
            value = nvidia_smi("utilization.gpu")
            if value is not None and value.isdigit():
                found.append(float(value))
            done.wait(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    end = time.perf_counter() + duration
    while time.perf_counter() < end:
        step()
        wait(device)
    done.set()
    watcher.join()
    return statistics.mean(found) if found else None


def large_product(device: torch.device, dtype: torch.dtype, size: int = 2048) -> tuple[Step, int]:
    """Return a square matrix product, as the upper bound of speed, and its multiply-accumulates."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b, size**3


def table(rows: list[dict[str, Any]]) -> str:
    """Format rows with the same keys as aligned columns."""
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    sizes = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(f"{cell:{size}}" for cell, size in zip(row, sizes, strict=True)) for row in cells)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write(path: str | None, result: dict[str, Any]) -> None:
    """Write the result as JSON if a path is given. The path itself, an argument too, is of one machine only."""
    if path:
        if "arguments" in result:
            result = result | {"arguments": {k: v for k, v in result["arguments"].items() if k != "json"}}
        Path(path).write_text(json.dumps(result, indent=2) + "\n")
        print(f"wrote {path}")

"""What the benchmarks share: interleaved timing, peak memory, and a record of where it was measured."""

from __future__ import annotations

import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vitas_ds.run.manifest import git_commit, version_of

Step = Callable[[], Any]


def seconds(steps: Mapping[str, Step], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each step, taken in turns so that a change of the machine's pace meets all of them.

    On the CPU this is CPU time over all threads: other work on the machine hardly shows.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):  # the first one warms up
        for name, step in steps.items():
            _wait(device)
            begin = clock()
            step()
            _wait(device)
            if i:
                times[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(step: Step, device: torch.device) -> int:
    """Most memory that a step holds above what was held before it; on the CPU resident memory, looked at each ms."""
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
    """Give what the allocator keeps back to the system, so that the base is what is in use."""
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)


def where(device: torch.device) -> dict[str, Any]:
    """Machine, versions and commit."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else [*models, platform.processor()][0],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "git": git_commit(),
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in ("torch", "timm")},
    }


def large_product(device: torch.device, dtype: torch.dtype, size: int = 2048) -> tuple[Step, int]:
    """A square matrix product, the most that can be hoped for, and its multiply-accumulates."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b, size**3


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of the same keys as aligned columns."""
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    sizes = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(f"{cell:{size}}" for cell, size in zip(row, sizes, strict=True)) for row in cells)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write(path: str | None, result: dict[str, Any]) -> None:
    """Write the result as JSON, if a path is given."""
    if path:
        Path(path).write_text(json.dumps(result, indent=2) + "\n")
        print(f"written: {path}")

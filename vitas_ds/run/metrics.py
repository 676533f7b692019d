"""Read and format the metrics of a run."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitas_ds.errors.reading import parse_json_line, read_text
from vitas_ds.run.files import write_text
from vitas_ds.run.run_dir import RunDir

MAX_METRICS = 4 << 30  # bytes


def cut_metrics(path: Path, stage: str, step: int) -> None:
    """Remove the lines of ``stage`` after ``step`` (all of them if ``step`` is 0), and any incomplete line."""
    if not path.exists():
        return
    text = read_text(path, MAX_METRICS)
    kept = [line for line in text.splitlines(keepends=True) if _keep(line, stage, step)]
    if len(kept) != text.count("\n") or not text.endswith("\n"):
        write_text(path, "".join(kept))


def _keep(line: str, stage: str, step: int) -> bool:
    try:
        record = parse_json_line(line)
        return line.endswith("\n") and (record["stage"] != stage or 0 < record["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def read_metrics(run: RunDir) -> list[dict[str, Any]]:
    """Return every complete record of ``metrics.jsonl``, in order."""
    if not run.metrics.exists():
        return []
    rows = []
    for line in read_text(run.metrics, MAX_METRICS).splitlines():
        with suppress(ValueError):  # a killed job may leave an incomplete last line
            rows.append(parse_json_line(line))
    return [row for row in rows if isinstance(row, dict) and row.keys() >= {"stage", "step"}]


# Values of a progress line, in this order. Other values follow under their own names.
SHOWN: dict[str, Callable[[float], str]] = {
    "loss": lambda x: f"loss {x:.4f}",
    "top1": lambda x: f"top-1 {x:.1%}",
    "lr": lambda x: f"lr {x:.2e}",
    "images_per_s": lambda x: f"{x:,.0f} images/s",
    "mfu": lambda x: f"MFU {x:.0%}",
    "data_wait": lambda x: f"data wait {x:.0%}",
    "memory_gb": lambda x: f"{x:.2f} GB",
}
RECORDED_ONLY = ("step_seconds", "grad_norm", "net_")  # prefixes of values not printed


def progress_line(
    stage: str, step: int, total: int, values: dict[str, Any], seconds_left: float, run_left: float = math.nan
) -> str:
    """Format a progress line: ``train-supernet  120/400  loss 1.2345  lr 9.9e-04  ...  ETA 1:05``.

    Args:
        stage: Name of the stage.
        step: Number of finished steps.
        total: Steps of the whole stage; 0 if unknown.
        values: Metrics by name.
        seconds_left: Remaining seconds of the stage; nan if unknown.
        run_left: Remaining seconds of the stage and of those after it; nan if unknown.
    """
    parts = [stage, f"{step:>{len(str(total))}}/{total}" if total else str(step)]
    parts += [show(values[name]) for name, show in SHOWN.items() if values.get(name) is not None]
    others = [name for name in values if name not in SHOWN and not name.startswith(RECORDED_ONLY)]
    parts += [f"{name} {values[name]:.4g}" for name in others if isinstance(values[name], int | float)]
    if total and math.isfinite(seconds_left):
        parts.append(f"ETA {clock(seconds_left)}")
        parts += [f"all stages about {clock(run_left)}"] if math.isfinite(run_left) else []
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Format a duration: ``0:09``, ``2:05``, ``1:02:05``, ``3d 01:02``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02}:{m:02}"
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def peak_memory() -> int:
    """Return the peak memory in bytes: of tensors on the GPU, or of the process if it does not use a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

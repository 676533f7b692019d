"""State of a run, from its files: stage, progress, results, size. Importing this module does not import torch.

A run of a million metric rows must not cost more than a small one: only the end of ``metrics.jsonl`` is read.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitas_ds.distributed.supervisor import pid_namespace, process_start
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import open_binary, parse_json_line, read_bytes
from vitas_ds.run import lock
from vitas_ds.run.files import read_json
from vitas_ds.run.manifest import read_starts
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary, trains_older_network

TAIL = 1 << 16  # bytes at the end of metrics.jsonl
SILENT = 60  # seconds without a heartbeat after which a rank counts as stopped; it beats every 5 seconds


@dataclass(frozen=True)
class Overview:
    """State of a run.

    Attributes:
        stage: Stage of the latest start; "" before the first one.
        step: Last recorded step of the stage.
        total: Steps of the stage; 0 if unknown.
        state: "running", "stopped", "done" (the stage has ended) or "failed".
        reason: Why it failed; "" if it did not.
        left: Remaining seconds of a running stage; None if unknown.
        run_left: Remaining seconds of this stage and the later ones; None if unknown.
        best: Search score of the best candidate; None before the search has ended.
        top1: Accuracy on the validation images; None before the evaluation.
        older: Whether this is the accuracy of the best network of an earlier search.
        size: Bytes on disk.
        last: Last record of the metrics of the stage.
    """

    stage: str
    step: int
    total: int
    state: str
    reason: str
    left: float | None
    run_left: float | None
    best: float | None
    top1: float | None
    older: bool
    size: int
    last: dict[str, Any]

    @property
    def progress(self) -> str:
        """Progress of the stage, such as ``120/400``."""
        if self.state == "done":
            return "100%"
        return f"{self.step}/{self.total}" if self.total else str(self.step or "")


def overview(run: RunDir) -> Overview:
    """Return the state of a run.

    Raises:
        UserError: The folder is not a run.
    """
    if not run.config.is_file():
        raise UserError(f"{run.path}: not a run (there is no {run.config.name} in it)")
    starts, summary = read_starts(run), read_summary(run)
    stage = starts[-1]["stage"] if starts else ""
    last = last_record(run, stage)
    step, recorded = last.get("step", 0), read_json(run.total, {})
    total = recorded.get("total", 0) if recorded.get("stage") == stage else 0
    running, reason = ranks_state(run)
    done = stage in summary and (not total or step >= total)
    state = "running" if running else "failed" if reason else "done" if done else "stopped"
    left, run_left = (_remaining(recorded, name) if running and total else None for name in ("left", "run_left"))
    best = summary.get("search", {}).get("best", {}).get("score")
    top1 = summary.get("evaluate", {}).get("top1")
    older = top1 is not None and trains_older_network(run)
    return Overview(stage, step, total, state, reason, left, run_left, best, top1, older, folder_size(run.path), last)


def _remaining(recorded: dict[str, Any], name: str) -> float | None:
    """Return the last estimate of remaining seconds, less the time since then; None if unknown."""
    seconds, then = recorded.get(name), recorded.get("time")
    if not (isinstance(seconds, int | float) and isinstance(then, int | float)):
        return None
    return max(seconds - max(time.time() - then, 0.0), 0.0)


def last_record(run: RunDir, stage: str, evaluation: bool = False) -> dict[str, Any]:
    """Return the last record of a stage's metrics, of its steps or of its evaluations; empty if there is none."""
    try:
        with open_binary(run.metrics) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        with suppress(ValueError):
            row = parse_json_line(line)
            if isinstance(row, dict) and row.get("stage") == stage and bool(row.get("evaluation")) == evaluation:
                return row
    return {}


def ranks_state(run: RunDir) -> tuple[bool, str]:
    """Return whether a rank of the run is alive, and why one failed ("" if none did)."""
    running, reasons = False, []
    for path, beat in _heartbeats(run):
        if beat.get("ended") is None:
            running |= _is_alive(path, beat)
        elif beat["ended"]:
            reasons.append(str(beat["ended"]))
    running = running or lock.is_active(run.path)  # before the first heartbeat, and in stages without
    return running, "" if running or not reasons else reasons[0]


def _heartbeats(run: RunDir) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(run.life.glob("rank-*.json")):
        with suppress(OSError, ValueError, UserError):  # a rank may be writing it
            beat = parse_json_line(read_bytes(path))
            if isinstance(beat, dict) and "pid" in beat:
                yield path, beat


def _is_alive(path: Path, beat: dict[str, Any]) -> bool:
    """Return whether a rank wrote its heartbeat recently; on this machine also whether its process exists."""
    if beat.get("host") == platform.node() and beat.get("space") == pid_namespace():
        pid, started = beat.get("pid"), beat.get("started")
        return isinstance(pid, int) and bool(started) and process_start(pid) == started
    return time.time() - path.stat().st_mtime < SILENT


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder; a file that vanishes meanwhile does not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def format_size(size: float) -> str:
    """Format bytes: ``12 kB``, ``3.4 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"

"""Track a stage: console lines, ``metrics.jsonl`` (the complete record), and W&B and TensorBoard (mirrors).

Rank 0 has a ``LiveTracker``. Every other rank has a ``Tracker`` that does nothing, so callers need not check the rank.
The mirrors are optional: their errors never end a run.

Steps are counted from 1. A stage that resumes after step s drops its records of later steps, so every step appears once
in ``metrics.jsonl``; the evaluation of a step is a second record, with ``evaluation: true``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override  # a dependency of pydantic

from vitas_ds.config import Config
from vitas_ds.errors.exits import naming
from vitas_ds.run import lock
from vitas_ds.run.files import open_to_append, to_json, write_json
from vitas_ds.run.metrics import cut_metrics, peak_memory, progress_line, read_metrics
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tensorboard_mirror import check_tensorboard, open_writer
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.wandb_mirror import open_mirror, wandb_mode

STEADY, SURE = 20, 60.0  # steps or seconds until the speed of a stage is known
ESTIMATE = 10.0  # seconds between estimates for other processes
CHECK = 1.0  # seconds between checks of the lock, which ask for two files; a suspension that loses it lasts longer


class LiveTracker(Tracker):
    """Tracker of rank 0: writes to the console, ``metrics.jsonl`` and the mirrors.

    Args:
        run: The run folder.
        stage: Name of the stage.
        total: Steps of the whole stage; 0 if unknown.
        start_step: Steps finished before this start.
        mirrors: Trackers that receive everything too.
        every: Smallest number of seconds between progress lines. The last step always prints one.
        later: Computation of the later stages, relative to that of this one; nan if unknown.

    ``total.json`` has the last estimate of the remaining time, for the command ``status``.
    """

    def __init__(
        self, run: RunDir, stage: str, total: int, start_step: int, mirrors: Sequence[Tracker], every: float,
        later: float = math.nan,
    ) -> None:  # fmt: skip
        self.run, self.stage, self.total, self.first = run, stage, total, start_step
        self.mirrors, self.every, self.later = mirrors, every, later
        cut_metrics(run.metrics, stage, start_step)
        self.file, self.checked = open_to_append(run.metrics), float("-inf")
        self.start = self.last = self.estimated = time.perf_counter()
        self._write_estimate(math.nan, math.nan)
        self.last_step, self.waited, self.printed = start_step, 0.0, float("-inf")

    @override
    def log(
        self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None, ideal: float = 0.0,
        shown: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        now = time.perf_counter()
        seconds = max(now - self.last, 1e-9)
        values = {name: _number(value) for name, value in values.items()}
        values["step_seconds"] = seconds / max(step - self.last_step, 1)
        if images:
            values |= {"images_per_s": images / seconds, "data_wait": min(1.0, self.waited / seconds)}
        if ideal:
            values["mfu"] = ideal / seconds
        values["memory_gb"] = peak_memory() / 1e9
        self._write(step, values)
        for mirror in self.mirrors:
            mirror.log(step, values)
        if left is None:
            left = (now - self.start) / max(step - self.first, 1) * max(self.total - step, 0)
        if step == self.total:
            self.printed = float("-inf")
        self.progress(step, values | (shown or {}), left)
        self.last, self.last_step, self.waited = time.perf_counter(), step, 0.0

    def _write(self, step: int, values: dict[str, Any]) -> None:
        now = time.time()  # unlike other clocks, it counts the time in which the machine sleeps
        if not 0 <= now - self.checked < CHECK:
            lock.check(self.run.metrics)
            self.checked = now
        record = {"stage": self.stage, "step": step, "time": round(now, 3), **values}
        with naming(self.run.metrics):
            self.file.write(f"{to_json(record)}\n".encode())
            self.file.flush()

    @override
    def evaluation(self, step: int, values: dict[str, Any]) -> None:
        self._write(step, {"evaluation": True} | values)
        for mirror in self.mirrors:
            mirror.log(step, values)

    @override
    def has_evaluation(self, step: int) -> bool:
        return any(
            row["stage"] == self.stage and row["step"] == step and row.get("evaluation")
            for row in read_metrics(self.run)
        )

    @override
    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.last += time.perf_counter() - start

    @override
    def progress(self, step: int, values: dict[str, Any], left: float) -> None:
        now = time.perf_counter()
        run_left = self._run_left(step, left, now)
        if now - self.printed >= self.every:
            self.print(progress_line(self.stage, step, self.total, values, left, run_left))
            self.printed = now
        if now - self.estimated >= ESTIMATE:
            self._write_estimate(left, run_left)
            self.estimated = now

    @override
    def complete(self) -> None:
        self.total = self.last_step
        self._write_estimate(0.0, math.nan)

    def _run_left(self, step: int, left: float, now: float) -> float:
        """Return the remaining seconds of this and the later stages, at the speed of this one; nan at its start."""
        if step - self.first < STEADY and now - self.start < SURE:
            return math.nan
        share = (self.total - self.first) / max(self.total, 1)  # of the stage, in this start
        return left + (now - self.start + left) / share * self.later if share > 0 else math.nan

    def _write_estimate(self, left: float, run_left: float) -> None:
        estimate = {"time": time.time(), "left": left, "run_left": run_left}
        write_json(self.run.total, {"stage": self.stage, "total": self.total} | estimate)

    @override
    @contextmanager
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - start

    @override
    def print(self, text: str) -> None:
        print(text, flush=True)

    @override
    def image(self, name: str, path: Path) -> None:
        for mirror in self.mirrors:
            mirror.image(name, path)

    @override
    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        rows = list(rows)
        for mirror in self.mirrors:
            mirror.table(name, columns, rows)

    @override
    def histogram(self, name: str, values: Any) -> None:
        for mirror in self.mirrors:
            mirror.histogram(name, values)

    @override
    def artifact(self, name: str, kind: str, path: Path) -> None:
        for mirror in self.mirrors:
            mirror.artifact(name, kind, path)

    @override
    def summary(self, values: dict[str, Any]) -> None:
        for mirror in self.mirrors:
            mirror.summary(values)

    @override
    def close(self, failed: bool = False) -> None:
        self.file.close()
        for mirror in self.mirrors:
            mirror.close(failed)


def open_tracker(
    config: Config, run: RunDir, stage: str, is_main: bool, *,
    total: int = 0, start_step: int = 0, every: float = 2.0, later: float = math.nan,
) -> Tracker:  # fmt: skip
    """Return the tracker of a stage for this rank. For the arguments, see ``LiveTracker``."""
    if not is_main:
        return Tracker()
    run.path.mkdir(parents=True, exist_ok=True)
    mirrors = [open_mirror(config, run, stage)]
    if config.tracking.tensorboard:
        mirrors.append(open_writer(run, stage, start_step))
    return LiveTracker(run, stage, total, start_step, mirrors, every, later)


def check_tracking(config: Config) -> None:
    """Check the requirements of the mirrors.

    Raises:
        UserError: TensorBoard is configured but not installed, or WANDB_MODE has an unknown value.
    """
    check_tensorboard(config)
    wandb_mode(config)


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value

"""Where progress goes: the console, ``metrics.jsonl`` (the record) and a W&B mirror. The one import of wandb.

Rank 0 has a ``LiveTracker``, every other rank a ``Tracker``, whose methods do nothing, so that no caller asks which
rank it is. W&B is never needed: whatever it does, the run goes on.

Steps count what is done, from 1. A stage that resumes after step s drops its lines of later steps, so that no step
is in ``metrics.jsonl`` twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitas_ds.config import Config
from vitas_ds.run.files import to_json
from vitas_ds.run.metrics import cut_metrics, peak_memory, progress_line
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.wandb_mirror import open_mirror


class LiveTracker(Tracker):
    """The tracker of rank 0: console, ``metrics.jsonl`` and a mirror, which is a tracker as well."""

    def __init__(self, run: RunDir, stage: str, total: int, start_step: int, mirror: Tracker, every: float):
        """``every``: least seconds between progress lines; the last step always has one."""
        self.stage, self.total, self.first = stage, total, start_step
        self.mirror, self.every = mirror, every
        cut_metrics(run.metrics, stage, start_step)
        self.file = run.metrics.open("a")
        self.begun = self.last = time.perf_counter()
        self.last_step, self.waited, self.printed = start_step, 0.0, float("-inf")

    def log(self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None) -> None:
        """Record a step: adds seconds a step, images a second, data wait (share of the time) and peak memory (GB)."""
        now = time.perf_counter()
        seconds = max(now - self.last, 1e-9)
        values = {name: _number(value) for name, value in values.items()}
        values["step_seconds"] = seconds / max(step - self.last_step, 1)
        if images:
            values |= {"images_per_s": images / seconds, "data_wait": min(1.0, self.waited / seconds)}
        values["memory_gb"] = peak_memory() / 1e9
        record = {"stage": self.stage, "step": step, "time": round(time.time(), 3), **values}
        self.file.write(to_json(record) + "\n")
        self.file.flush()
        self.mirror.log(step, values)
        if left is None:
            left = (now - self.begun) / max(step - self.first, 1) * max(self.total - step, 0)
        if step == self.total:
            self.printed = float("-inf")
        self.tell(step, values, left)
        self.last, self.last_step, self.waited = time.perf_counter(), step, 0.0

    def tell(self, step: int, values: dict[str, Any], left: float) -> None:
        now = time.perf_counter()
        if now - self.printed >= self.every:
            self.say(progress_line(self.stage, step, self.total, values, left))
            self.printed = now

    @contextmanager
    def waiting(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - begun

    def say(self, text: str) -> None:
        print(text, flush=True)

    def image(self, name: str, path: Path) -> None:
        self.mirror.image(name, path)

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self.mirror.table(name, columns, rows)

    def histogram(self, name: str, values: Any) -> None:
        self.mirror.histogram(name, values)

    def artifact(self, name: str, kind: str, path: Path) -> None:
        self.mirror.artifact(name, kind, path)

    def summary(self, values: dict[str, Any]) -> None:
        self.mirror.summary(values)

    def close(self, failed: bool = False) -> None:
        self.file.close()
        self.mirror.close(failed)


def open_tracker(
    config: Config, run: RunDir, stage: str, ranks_main: bool, *,
    total: int = 0, start_step: int = 0, every: float = 2.0,
) -> Tracker:  # fmt: skip
    """The tracker of a stage on this rank.

    ``total`` steps are the whole stage; ``start_step`` of them are done already. ``every`` is the least number of
    seconds between two progress lines.
    """
    if not ranks_main:
        return Tracker()
    run.path.mkdir(parents=True, exist_ok=True)
    return LiveTracker(run, stage, total, start_step, open_mirror(config, run, stage), every)


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value

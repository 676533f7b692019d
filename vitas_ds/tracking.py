"""Where progress goes: the console, ``metrics.jsonl`` (the record) and a W&B mirror. The one import of wandb.

Rank 0 has a ``LiveTracker``, every other rank a ``Tracker``, whose methods do nothing, so that no caller asks which
rank it is. W&B is never needed: whatever it does, the run goes on.

Steps count what is done, from 1. A stage that resumes after step s drops its lines of later steps, so that no step
is in ``metrics.jsonl`` twice.
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vitas_ds.config import Config
from vitas_ds.run_dir import RunDir, to_json, write_json, write_text

T = TypeVar("T")


class Tracker:
    """The tracker of every rank but the first: takes everything, does nothing. Close it, or use it in ``with``."""

    def log(self, step: int, values: dict[str, Any], *, images: int = 0) -> None:
        """Record the values of a step (numbers or one-element tensors); ``images`` were worked on since the last."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in this block is waiting for data."""
        yield

    def say(self, text: str) -> None:
        """A line on the console."""

    def image(self, name: str, path: Path) -> None:
        """An image file for W&B."""

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table for W&B."""

    def histogram(self, name: str, values: Any) -> None:
        """The distribution of some numbers for W&B."""

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """A file or folder that W&B keeps, versioned."""

    def summary(self, values: dict[str, Any]) -> None:
        """The stage's headline numbers for W&B (``run_dir.update_summary`` is the record)."""

    def close(self, failed: bool = False) -> None:
        """End the stage's tracking."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


class LiveTracker(Tracker):
    """The tracker of rank 0."""

    def __init__(self, run: RunDir, stage: str, total: int, start_step: int, mirror: Mirror | None, every: float):
        """``every``: least seconds between progress lines; the last step always has one."""
        self.stage, self.total, self.first = stage, total, start_step
        self.mirror, self.every = mirror, every
        cut_metrics(run.metrics, stage, start_step)
        run.metrics.parent.mkdir(parents=True, exist_ok=True)
        self.file = run.metrics.open("a")
        self.begun = self.last = time.perf_counter()
        self.last_step, self.waited, self.printed = start_step, 0.0, float("-inf")

    def log(self, step: int, values: dict[str, Any], *, images: int = 0) -> None:
        """Record a step: adds seconds a step, images a second, data wait (share of the time) and peak memory (GB)."""
        now = time.perf_counter()
        seconds = max(now - self.last, 1e-9)
        values = {name: _number(value) for name, value in values.items()}
        if step > self.last_step:
            values["step_seconds"] = seconds / (step - self.last_step)
        if images:
            values |= {"images_per_s": images / seconds, "data_wait": min(1.0, self.waited / seconds)}
        values["memory_gb"] = peak_memory() / 1e9
        record = {"stage": self.stage, "step": step, "time": round(time.time(), 3)} | values
        self.file.write(to_json(record) + "\n")
        self.file.flush()
        if self.mirror:
            self.mirror.log(step, values)
        if now - self.printed >= self.every or step == self.total:
            self.say(progress_line(self.stage, step, self.total, values, self._eta(step, now)))
            self.printed = now
        self.last, self.last_step, self.waited = time.perf_counter(), step, 0.0

    def _eta(self, step: int, now: float) -> float:
        """Seconds left, at the pace of this start."""
        return (now - self.begun) / max(step - self.first, 1) * max(self.total - step, 0)

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
        if self.mirror:
            self.mirror.image(name, path)

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        if self.mirror:
            self.mirror.table(name, columns, rows)

    def histogram(self, name: str, values: Any) -> None:
        if self.mirror:
            self.mirror.histogram(name, values)

    def artifact(self, name: str, kind: str, path: Path) -> None:
        if self.mirror:
            self.mirror.artifact(name, kind, path)

    def summary(self, values: dict[str, Any]) -> None:
        if self.mirror:
            self.mirror.summary(values)

    def close(self, failed: bool = False) -> None:
        self.file.close()
        if self.mirror:
            self.mirror.finish(failed)


class Mirror:
    """One stage's W&B run. The first error ends the mirror with a warning, never the run."""

    def __init__(self, config: Config, run: RunDir, stage: str):
        self.wandb: Any = None
        self.run: Any = None
        self._try(lambda: self._start(config, run, stage))

    def _start(self, config: Config, run: RunDir, stage: str) -> None:
        import wandb

        self.wandb = wandb
        folder = Path(os.environ.get("WANDB_DIR", run.path)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # where artifacts wait to be sent
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))

        def init(mode: str) -> Any:
            return wandb.init(
                project=config.tracking.project, entity=config.tracking.entity, id=_wandb_id(run, stage),
                resume="allow", mode=mode, dir=folder, group=run.name, job_type=stage, name=f"{run.name} {stage}",
                config=config.model_dump(mode="json"), settings=wandb.Settings(console="off", silent=True),
                reinit="finish_previous",
            )  # fmt: skip

        mode = wandb_mode(config)
        try:
            self.run = init(mode)
        except Exception as error:
            if mode != "online":
                raise
            warnings.warn(f"W&B cannot be reached, going on offline ({_first_line(error)})", stacklevel=2)
            self.run = init("offline")
        # our own step, because W&B's may not go back when a stage resumes from an earlier checkpoint
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Numbers of a step."""
        self._try(lambda: self.run.log(values | {"step": step}))

    def image(self, name: str, path: Path) -> None:
        """An image file."""
        self._try(lambda: self.run.log({name: self.wandb.Image(str(path))}))

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table."""
        self._try(lambda: self.run.log({name: self.wandb.Table(list(columns), [list(row) for row in rows])}))

    def histogram(self, name: str, values: Any) -> None:
        """The distribution of some numbers."""
        self._try(lambda: self.run.log({name: self.wandb.Histogram(values)}))

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """A file or a folder, versioned."""

        def add() -> None:
            artifact = self.wandb.Artifact(name, kind)
            artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
            self.run.log_artifact(artifact)

        self._try(add)

    def summary(self, values: dict[str, Any]) -> None:
        """Headline numbers."""
        self._try(lambda: self.run.summary.update(json.loads(to_json(values))))

    def finish(self, failed: bool) -> None:
        """End the W&B run."""
        self._try(lambda: self.run.finish(exit_code=int(failed)))
        self.run = None

    def _try(self, action: Callable[[], T]) -> T | None:
        if self.wandb is not None and self.run is None and self._started:
            return None
        self._started = True
        try:
            return action()
        except Exception as error:
            warnings.warn(f"W&B stopped, the run goes on without it ({_first_line(error)})", stacklevel=3)
            self.run = None
            return None

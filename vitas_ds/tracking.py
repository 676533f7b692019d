"""Where progress goes: the console, ``metrics.jsonl`` (the record) and a W&B mirror. The one import of wandb.

Rank 0 has a ``LiveTracker``, every other rank a ``Tracker``, whose methods do nothing, so that no caller asks which
rank it is. W&B is never needed: whatever it does, the run goes on.

Steps count what is done, from 1. A stage that resumes after step s drops its lines of later steps, so that no step
is in ``metrics.jsonl`` twice.
"""

from __future__ import annotations

import json
import math
import os
import resource
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from vitas_ds.config import Config
from vitas_ds.run_dir import RunDir, to_json, write_json, write_text


class Tracker:
    """The tracker of every rank but the first: takes everything, does nothing. Close it, or use it in ``with``."""

    def log(self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None) -> None:
        """Record the values of a step (numbers or one-element tensors); ``images`` were worked on since the last.

        ``left``: seconds that remain (nan: not known yet); None: what the steps since the start tell.
        """

    def tell(self, step: int, values: dict[str, Any], left: float) -> None:
        """Show between two records how far it is, unless the last progress line is recent."""

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


class WandbMirror(Tracker):
    """One stage's W&B run. Its first error ends the mirror with a warning, never the run."""

    def __init__(self, wandb: Any, wandb_run: Any):
        """The module and the run that ``open_mirror`` started."""
        self.wandb, self.run = wandb, wandb_run

    def log(self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None) -> None:
        self._try(lambda: self.run.log(values | {"step": step}))

    def image(self, name: str, path: Path) -> None:
        self._try(lambda: self.run.log({name: self.wandb.Image(str(path))}))

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self._try(lambda: self.run.log({name: self.wandb.Table(list(columns), [list(row) for row in rows])}))

    def histogram(self, name: str, values: Any) -> None:
        self._try(lambda: self.run.log({name: self.wandb.Histogram(values)}))

    def artifact(self, name: str, kind: str, path: Path) -> None:
        def add() -> None:
            artifact = self.wandb.Artifact(name, kind)
            artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
            self.run.log_artifact(artifact)

        self._try(add)

    def summary(self, values: dict[str, Any]) -> None:
        # W&B keeps a metric's last value in the summary under its name, as the search's best score
        told = {"best_net" if name == "best" else name: value for name, value in values.items()}
        self._try(lambda: self.run.summary.update(json.loads(to_json(told))))

    def close(self, failed: bool = False) -> None:
        self._try(lambda: self.run.finish(exit_code=int(failed)))
        self.run = None

    def _try(self, action: Callable[[], object]) -> None:
        if self.run is None:
            return
        try:
            action()
        except Exception as error:
            warnings.warn(f"W&B stopped, the run goes on without it: {_first_line(error)}", stacklevel=4)
            self.run = None


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


def open_mirror(config: Config, run: RunDir, stage: str) -> Tracker:
    """The stage's W&B run, new or gone on with; a tracker that does nothing where W&B is disabled or fails."""
    mode = wandb_mode(config)
    if mode == "disabled":
        return Tracker()
    try:
        import wandb

        settings = _wandb_settings(config, run, stage)
        try:
            started = wandb.init(mode=mode, **settings)
        except Exception as error:
            if mode == "offline":
                raise
            warnings.warn(f"W&B cannot be reached, it goes on offline: {_first_line(error)}", stacklevel=3)
            wandb.teardown()  # or the id stays taken
            started = wandb.init(mode="offline", **settings)
        # an own step, because W&B's may not go back, and a stage may resume from an earlier checkpoint
        started.define_metric("step", hidden=True)
        started.define_metric("*", step_metric="step")
    except Exception as error:
        warnings.warn(f"W&B does not start, the run goes on without it: {_first_line(error)}", stacklevel=3)
        return Tracker()
    return WandbMirror(wandb, started)


def wandb_mode(config: Config) -> Literal["online", "offline", "disabled"]:
    """What ``tracking.wandb`` means here; ``auto`` obeys WANDB_MODE, then asks for a key."""
    chosen = config.tracking.wandb
    if chosen != "auto":
        return chosen
    asked = os.environ.get("WANDB_MODE", "")
    if asked in ("online", "offline", "disabled"):
        return asked  # type: ignore[return-value]
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def _wandb_settings(config: Config, run: RunDir, stage: str) -> dict[str, Any]:
    """Arguments of ``wandb.init``; all of W&B's files go to the run's folder unless WANDB_DIR says otherwise."""
    import wandb

    folder = Path(os.environ.get("WANDB_DIR", run.path)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb" / "data"))  # artifacts wait here to be sent
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))
    ids = json.loads(run.wandb_ids.read_text()) if run.wandb_ids.exists() else {}
    if stage not in ids:
        ids[stage] = secrets.token_hex(4)
        write_json(run.wandb_ids, ids)
    patience = float(os.environ.get("WANDB_INIT_TIMEOUT", 60))
    project = config.tracking.project or os.environ.get("WANDB_PROJECT") or "vitas_ds"
    return {
        "project": project, "entity": config.tracking.entity, "dir": str(folder),
        "id": ids[stage], "resume": "allow", "reinit": "finish_previous",
        "group": run.name, "job_type": stage, "name": f"{run.name}-{stage}",
        "config": config.model_dump(mode="json"),
        "settings": wandb.Settings(console="off", silent=True, init_timeout=patience),
    }  # fmt: skip


def cut_metrics(path: Path, stage: str, step: int) -> None:
    """Drop the lines of ``stage`` after ``step`` (all of them if it is 0) and a last line that was not finished."""
    if not path.exists():
        return
    text = path.read_text()
    kept = [line for line in text.splitlines(keepends=True) if _keep(line, stage, step)]
    if len(kept) != text.count("\n") or not text.endswith("\n"):
        write_text(path, "".join(kept))


def _keep(line: str, stage: str, step: int) -> bool:
    try:
        record = json.loads(line)
        return line.endswith("\n") and (record["stage"] != stage or 0 < record["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False


def read_metrics(run: RunDir) -> list[dict[str, Any]]:
    """Every finished line of ``metrics.jsonl``, in order."""
    if not run.metrics.exists():
        return []
    rows = []
    for line in run.metrics.read_text().splitlines():
        with suppress(ValueError):  # the last line of a job that was killed
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and row.keys() >= {"stage", "step"}]


# what a progress line shows, in this order; other values follow under their own names, but for those only recorded
SHOWN: dict[str, Callable[[float], str]] = {
    "loss": lambda x: f"loss {x:.4f}",
    "lr": lambda x: f"lr {x:.2e}",
    "images_per_s": lambda x: f"{x:,.0f} images/s",
    "data_wait": lambda x: f"data wait {x:.0%}",
    "memory_gb": lambda x: f"{x:.2f} GB",
}
RECORDED_ONLY = ("step_seconds", "grad_norm", "net_")


def progress_line(stage: str, step: int, total: int, values: dict[str, Any], seconds_left: float) -> str:
    """One line for a person: ``train-supernet  120/400  loss 1.2345  lr 9.9e-04  ...  ETA 1:05``.

    ``seconds_left`` may be nan: not known.
    """
    parts = [stage, f"{step:>{len(str(total))}}/{total}" if total else str(step)]
    parts += [show(values[name]) for name, show in SHOWN.items() if values.get(name) is not None]
    others = [name for name in values if name not in SHOWN and not name.startswith(RECORDED_ONLY)]
    parts += [f"{name} {values[name]:.4g}" for name in others if isinstance(values[name], int | float)]
    if total and math.isfinite(seconds_left):
        parts.append(f"ETA {clock(seconds_left)}")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """``0:09``, ``2:05``, ``1:02:05``, ``3d 01:02``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02}:{m:02}"
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def peak_memory() -> int:
    """Most bytes held so far: by tensors on this process's GPU, or by the whole process where it uses none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]

"""Mirror the metrics of a stage to W&B. This is the only module that imports wandb."""

from __future__ import annotations

import json
import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override  # a dependency of pydantic

from vitas_ds.config import Config
from vitas_ds.run.files import to_json, write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker


class WandbMirror(Tracker):
    """Tracker that sends everything to W&B. The first error ends the mirror with a warning, never the run.

    Args:
        wandb: The wandb module.
        wandb_run: The W&B run that ``open_mirror`` started.
    """

    def __init__(self, wandb: Any, wandb_run: Any) -> None:
        self.wandb, self.run = wandb, wandb_run

    @override
    def log(
        self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None, ideal: float = 0.0
    ) -> None:
        self._try(lambda: self.run.log(values | {"step": step}))

    @override
    def image(self, name: str, path: Path) -> None:
        self._try(lambda: self.run.log({name: self.wandb.Image(str(path))}))

    @override
    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self._try(lambda: self.run.log({name: self.wandb.Table(list(columns), [list(row) for row in rows])}))

    @override
    def histogram(self, name: str, values: Any) -> None:
        self._try(lambda: self.run.log({name: self.wandb.Histogram(values)}))

    @override
    def artifact(self, name: str, kind: str, path: Path) -> None:
        def add() -> None:
            artifact = self.wandb.Artifact(name, kind)
            artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
            self.run.log_artifact(artifact)

        self._try(add)

    @override
    def summary(self, values: dict[str, Any]) -> None:
        # W&B writes the last value of each metric into the summary, and the search logs a metric "best" (its score)
        renamed = {"best_net" if name == "best" else name: value for name, value in values.items()}
        self._try(lambda: self.run.summary.update(json.loads(to_json(renamed))))

    @override
    def close(self, failed: bool = False) -> None:
        self._try(lambda: self.run.finish(exit_code=int(failed)))
        self.run = None

    def _try(self, action: Callable[[], object]) -> None:
        if self.run is None:
            return
        try:
            action()
        except Exception as error:
            warnings.warn(f"W&B stopped, the run continues without it: {_first_line(error)}", stacklevel=4)
            self.run = None


def open_mirror(config: Config, run: RunDir, stage: str) -> Tracker:
    """Start or resume the W&B run of a stage; return a tracker that does nothing if W&B is disabled or fails."""
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
            warnings.warn(f"W&B cannot be reached, continuing offline: {_first_line(error)}", stacklevel=3)
            wandb.teardown()  # without this, the run id stays taken
            started = wandb.init(mode="offline", **settings)
        # W&B's own step must never decrease, but a stage may resume from an earlier checkpoint
        started.define_metric("step", hidden=True)
        started.define_metric("*", step_metric="step")
    except Exception as error:
        warnings.warn(f"W&B does not start, the run continues without it: {_first_line(error)}", stacklevel=3)
        return Tracker()
    return WandbMirror(wandb, started)


def wandb_mode(config: Config) -> Literal["online", "offline", "disabled"]:
    """Resolve ``tracking.wandb``: "auto" uses WANDB_MODE, or else is online if there is an API key."""
    chosen = config.tracking.wandb
    if chosen != "auto":
        return chosen
    match os.environ.get("WANDB_MODE"):
        case "online":
            return "online"
        case "offline":
            return "offline"
        case "disabled":
            return "disabled"
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def _wandb_settings(config: Config, run: RunDir, stage: str) -> dict[str, Any]:
    """Return the arguments of ``wandb.init``. W&B's files go to the run folder unless WANDB_DIR is set."""
    import wandb

    folder = Path(os.environ.get("WANDB_DIR", run.path)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb" / "data"))  # artifacts are staged here for upload
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))
    ids = json.loads(run.wandb_ids.read_text()) if run.wandb_ids.exists() else {}
    if stage not in ids:
        ids[stage] = secrets.token_hex(4)
        write_json(run.wandb_ids, ids)
    timeout = float(os.environ.get("WANDB_INIT_TIMEOUT") or 60)
    project = config.tracking.project or os.environ.get("WANDB_PROJECT") or "vitas_ds"
    return {
        "project": project, "entity": config.tracking.entity, "dir": str(folder),
        "id": ids[stage], "resume": "allow", "reinit": "finish_previous",
        "group": run.name, "job_type": stage, "name": f"{run.name}-{stage}",
        "config": config.model_dump(mode="json"),
        "settings": wandb.Settings(console="off", silent=True, init_timeout=timeout),
    }  # fmt: skip


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]

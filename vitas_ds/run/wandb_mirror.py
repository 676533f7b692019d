"""Mirror the metrics of a run to W&B. This is the only module that imports wandb.

All stages and all starts of a run continue one W&B run. Its metrics are named STAGE/NAME, over the steps of the stage.
"""

from __future__ import annotations

import json
import os
import secrets
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override  # a dependency of pydantic

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json, to_json, write_json
from vitas_ds.run.mirror import Mirror, first_line
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracker import Tracker

Mode = Literal["online", "offline", "disabled"]
MODES: dict[str, Mode] = {  # values of WANDB_MODE; the last two are older names
    "online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline",
}  # fmt: skip
TRUE = ("1", "true", "yes", "on")


class WandbMirror(Mirror):
    """Tracker that sends everything to W&B.

    Args:
        wandb: The wandb module.
        wandb_run: The W&B run that ``open_mirror`` started.
        stage: The stage that sends.
    """

    def __init__(self, wandb: Any, wandb_run: Any, stage: str) -> None:
        super().__init__("W&B")
        self.wandb, self.run = wandb, wandb_run
        self.begin(stage)

    def begin(self, stage: str) -> None:
        """Send metrics of this stage from now on."""
        self.stage = stage
        # W&B's own step must never decrease, but a stage may resume from an earlier checkpoint
        self.attempt(lambda: self.run.define_metric(f"{stage}/step", hidden=True))
        self.attempt(lambda: self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step"))

    def _name(self, name: str) -> str:
        return name if name.startswith(f"{self.stage}/") else f"{self.stage}/{name}"

    def _log(self, values: dict[str, Any]) -> None:
        self.run.log({self._name(name): value for name, value in values.items()})

    @override
    def log(
        self, step: int, values: dict[str, Any], *, images: int = 0, left: float | None = None, ideal: float = 0.0,
        shown: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.attempt(lambda: self._log(values | {"step": step}))

    @override
    def image(self, name: str, path: Path) -> None:
        self.attempt(lambda: self._log({name: self.wandb.Image(str(path))}))

    @override
    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        self.attempt(lambda: self._log({name: self.wandb.Table(list(columns), [list(row) for row in rows])}))

    @override
    def histogram(self, name: str, values: Any) -> None:
        self.attempt(lambda: self._log({name: self.wandb.Histogram(values)}))

    def page(self, name: str, path: Path) -> None:
        """Send an HTML page."""
        self.attempt(lambda: self._log({name: self.wandb.Html(str(path))}))

    @override
    def artifact(self, name: str, kind: str, path: Path) -> None:
        def add() -> None:
            artifact = self.wandb.Artifact(name, kind)
            artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
            self.run.log_artifact(artifact)

        self.attempt(add)

    @override
    def summary(self, values: dict[str, Any]) -> None:
        # W&B writes the last value of each metric into the summary, and the search logs a metric "best" (its score)
        named = {self._name("best_net" if name == "best" else name): value for name, value in values.items()}
        self.attempt(lambda: self.run.summary.update(json.loads(to_json(named))))

    @override
    def close(self, failed: bool = False) -> None:
        self.attempt(lambda: self.run.finish(exit_code=int(failed)))
        self.stopped = True


def open_mirror(config: Config, run: RunDir, stage: str) -> Tracker:
    """Start or resume the W&B run; return a tracker that does nothing if W&B is disabled or fails."""
    mode = wandb_mode(config)
    if mode == "disabled":
        return Tracker()
    if mode == "offline":  # W&B sends statistics about itself even then
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb

        settings = _wandb_settings(config, run)
        try:
            started = wandb.init(mode=mode, **settings)
        except Exception as error:
            if mode == "offline":
                raise
            warnings.warn(f"W&B cannot be reached, continuing offline: {first_line(error)}", stacklevel=3)
            wandb.teardown()  # without this, the run id stays taken
            started = wandb.init(mode="offline", **settings)
    except Exception as error:
        warnings.warn(f"W&B does not start, the run continues without it: {first_line(error)}", stacklevel=3)
        return Tracker()
    return WandbMirror(wandb, started, stage)


def wandb_mode(config: Config) -> Mode:
    """Resolve ``tracking.wandb``: "auto" uses WANDB_DISABLED, WANDB_MODE, or else is online if there is an API key.

    Raises:
        UserError: WANDB_MODE has an unknown value.
    """
    chosen = config.tracking.wandb
    if chosen != "auto":
        return chosen
    if os.environ.get("WANDB_DISABLED", "").lower() in TRUE:
        return "disabled"
    if mode := os.environ.get("WANDB_MODE"):
        if mode not in MODES:
            raise UserError(f"WANDB_MODE: must be online, offline or disabled (given: {mode})")
        return MODES[mode]
    return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def _wandb_settings(config: Config, run: RunDir) -> dict[str, Any]:
    """Return the arguments of ``wandb.init``. W&B's files go to the run folder unless WANDB_DIR is set.

    A setting of the recipe wins over the environment. All variables are read here: W&B reads them once per process.
    """
    import wandb

    env = os.environ
    folder = Path(env.get("WANDB_DIR") or run.path).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    env.setdefault("WANDB_DATA_DIR", str(folder / "wandb" / "data"))  # artifacts are staged here for upload
    env.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))
    tracking, tags = config.tracking, config.tracking.tags
    if tags is None:
        tags = tuple(filter(None, (tag.strip() for tag in env.get("WANDB_TAGS", "").split(","))))
    return {
        "project": tracking.project or env.get("WANDB_PROJECT") or "vitas_ds",
        "entity": tracking.entity or env.get("WANDB_ENTITY") or None,
        "tags": tags,
        "notes": env.get("WANDB_NOTES") if tracking.notes is None else tracking.notes,
        "id": _run_id(run), "resume": env.get("WANDB_RESUME") or "allow", "reinit": "finish_previous",
        "name": env.get("WANDB_NAME") or run.name, "group": env.get("WANDB_RUN_GROUP") or run.name,
        "job_type": env.get("WANDB_JOB_TYPE") or None,
        "dir": str(folder), "config": config.model_dump(mode="json"),
        "settings": wandb.Settings(
            console="off", silent=True, init_timeout=float(env.get("WANDB_INIT_TIMEOUT") or 60)
        ),
    }  # fmt: skip


def _run_id(run: RunDir) -> str:
    """Return the W&B id of a run: WANDB_RUN_ID, or that of an earlier start, or a new one. Record it."""
    ids = read_json(run.wandb_ids, {})
    found = os.environ.get("WANDB_RUN_ID") or ids.get("run") or secrets.token_hex(4)
    if ids.get("run") != found:
        write_json(run.wandb_ids, ids | {"run": found})
    return found

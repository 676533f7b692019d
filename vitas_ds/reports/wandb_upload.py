"""A run's record sent to W&B after the fact: a W&B run for each stage, grouped by the run's name."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_json
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir, read_summary
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.wandb_mirror import WandbMirror, open_mirror, wandb_mode
from vitas_ds.search.scoring.ledger import Entry, read_entries

Rows = list[dict[str, Any]]


def send(config: Config, run: RunDir) -> None:
    """Replay ``metrics.jsonl``, pictures, candidates and artifacts of every stage into new W&B runs.

    They are online or offline as ``tracking.wandb`` says (``disabled`` counts as ``auto`` here). Their ids replace the
    old ones in ``wandb_ids.json``, so that a stage that goes on does so where its whole record is.

    Raises:
        UserError: W&B is missing, disabled by WANDB_MODE, or fails; or nothing is recorded yet.
    """
    if config.tracking.wandb == "disabled":
        config = _with_mode(config, "auto")
    if find_spec("wandb") is None:
        raise UserError("--to-wandb: wandb is not installed; pip install -r requirements.txt")
    if wandb_mode(config) == "disabled":
        raise UserError("--to-wandb: WANDB_MODE is disabled in this environment")
    rows = read_metrics(run)
    if not rows:
        raise UserError(f"--to-wandb: {run.metrics} is missing or empty: nothing is recorded yet")
    stages = list(dict.fromkeys(row["stage"] for row in rows)) + (["export"] if run.export.is_dir() else [])
    before = json.loads(run.wandb_ids.read_text()) if run.wandb_ids.exists() else {}
    write_json(run.wandb_ids, {stage: name for stage, name in before.items() if stage not in stages})
    folders: list[Path] = []
    try:
        for stage in dict.fromkeys(stages):
            folder = _send_stage(config, run, stage, [row for row in rows if row["stage"] == stage])
            if folder is not None:
                folders.append(folder)
                config = _with_mode(config, "offline")  # one that cannot be reached is asked once
    except BaseException:
        write_json(run.wandb_ids, before)
        raise
    # named one by one: those that the stages themselves have written lie beside them
    where = f"offline; to send them: wandb sync {shlex.join(map(str, folders))}" if folders else "online"
    print(f"W&B: {len(rows):,} records of {', '.join(dict.fromkeys(stages))}, {where}")


def _with_mode(config: Config, mode: str) -> Config:
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"wandb": mode})})


def _send_stage(config: Config, run: RunDir, stage: str, rows: Rows) -> Path | None:
    """Send one stage; the folder of its W&B run if that is an offline one."""
    mirror = open_mirror(config, run, stage)
    if not isinstance(mirror, WandbMirror):
        raise UserError("--to-wandb: W&B does not start; the warning above says why")
    folder = Path(mirror.run.dir).parent if mirror.run.offline else None
    scores = _scores(run) if stage == "search" else {}
    for row in rows:
        mirror.log(row["step"], {name: value for name, value in row.items() if name not in ("stage", "step")})
        if row.get("generation") in scores:
            mirror.histogram("scores", scores[row["generation"]])
    _send_files(mirror, run, stage)
    mirror.summary(read_summary(run).get(stage, {}))
    if mirror.run is None:
        raise UserError(f"--to-wandb: W&B stopped in {stage}; the warning above says why")
    mirror.close()
    return folder


def _send_files(mirror: Tracker, run: RunDir, stage: str) -> None:
    """Pictures, the table of candidates, and what is worth keeping versions of."""
    pictures = {
        "train-supernet": run.supernet / "images.png", "retrain": run.retrain / "images.png",
        "evaluate": run.path / "evaluation_images.png",
    }  # fmt: skip
    if stage in pictures and pictures[stage].is_file():
        mirror.image("images", pictures[stage])
    if stage == "search":
        from vitas_ds.search.plots import COLUMNS, rows  # slow to import

        for path in sorted((run.search / "figures").glob("*.png")):
            mirror.image(f"search/{path.stem}", path)
        mirror.table("search/candidates", COLUMNS, rows(_entries(run)))
        if run.best.exists():
            mirror.artifact("best-spec", "spec", run.best)
    if stage == "export":
        mirror.artifact(f"{run.name}-model", "model", run.export)


def _entries(run: RunDir) -> list[Entry]:
    return read_entries(run.ledger, missing_ok=True)


def _scores(run: RunDir) -> dict[int, list[float]]:
    """The scores of each generation; those of nets scored again at the end stand with their own generation."""
    found: dict[int, list[float]] = {}
    for entry in _entries(run):
        found.setdefault(entry.generation, []).append(entry.score.value)
    return found

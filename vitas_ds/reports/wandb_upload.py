"""Upload the record of a run to W&B, as one W&B run."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.files import read_json, write_json
from vitas_ds.run.metrics import read_metrics
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.wandb_mirror import WandbMirror, open_mirror, wandb_mode
from vitas_ds.search.scoring.candidate import Candidate
from vitas_ds.search.scoring.ledger_reader import iter_ledger
from vitas_ds.search.tables import COLUMNS, FRONT_COLUMNS, front_rows, table_rows
from vitas_ds.search.trials import check_result, finalists_plot
from vitas_ds.search.trials.correction import corrected
from vitas_ds.search.trials.rows import read_rows

Rows = list[dict[str, Any]]


def send(config: Config, run: RunDir) -> None:
    """Replay ``metrics.jsonl``, pictures, candidates, front, report and artifacts of all stages into a new W&B run.

    ``tracking.wandb`` decides whether it is online or offline; ``disabled`` counts as ``auto`` here. Its id replaces
    the old one in ``wandb_ids.json``: a stage that resumes later continues the W&B run with the full record.

    Raises:
        UserError: W&B is not installed, disabled by the environment, or fails; or the run has no metrics yet.
    """
    config = _enabled(config)
    rows = read_metrics(run)
    if not rows:
        raise UserError(f"--to-wandb: {run.metrics} is missing or empty; run a stage first")
    stages = list(dict.fromkeys([row["stage"] for row in rows] + ["export"] * run.export.is_dir()))
    previous = read_json(run.wandb_ids, {})
    write_json(run.wandb_ids, {name: run_id for name, run_id in previous.items() if name not in ("run", *stages)})
    try:
        mirror = open_mirror(config, run, stages[0])
        if not isinstance(mirror, WandbMirror):
            raise UserError("--to-wandb: W&B does not start; see the warning above")
        folder = Path(mirror.run.dir).parent if mirror.run.offline else None
        for stage in stages:
            _send_stage(mirror, run, stage, [row for row in rows if row["stage"] == stage])
        mirror.begin("report")
        mirror.page("page", run.report)
        if mirror.stopped:
            raise UserError("--to-wandb: W&B stopped; see the warning above")
        mirror.close()
    except BaseException:
        write_json(run.wandb_ids, previous)
        raise
    # Name the folder: wandb/ also contains the files of the stages
    target = f"offline; to send them: wandb sync {shlex.quote(str(folder))}" if folder else "online"
    print(f"W&B: {len(rows):,} records of {', '.join(stages)}, {target}")


def _enabled(config: Config) -> Config:
    if config.tracking.wandb == "disabled":
        config = _with_mode(config, "auto")
    if find_spec("wandb") is None:
        raise UserError("--to-wandb: wandb is not installed; pip install -r requirements.txt")
    if wandb_mode(config) == "disabled":
        raise UserError("--to-wandb: W&B is disabled in this environment; unset WANDB_MODE and WANDB_DISABLED")
    return config


def _with_mode(config: Config, mode: str) -> Config:
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"wandb": mode})})


def _send_stage(mirror: WandbMirror, run: RunDir, stage: str, rows: Rows) -> None:
    mirror.begin(stage)
    candidates = list(corrected(run, iter_ledger(run.ledger, missing_ok=True))) if stage == "search" else []
    scores = _scores(candidates)
    for row in rows:
        mirror.log(
            row["step"], {name: value for name, value in row.items() if name not in ("stage", "step", "evaluation")}
        )
        if row.get("generation") in scores:
            mirror.histogram("scores", scores[row["generation"]])
    _send_files(mirror, run, stage, candidates)
    mirror.summary(read_summary(run).get(stage, {}))


def _send_files(mirror: Tracker, run: RunDir, stage: str, candidates: list[Candidate]) -> None:
    """Send pictures, the table of candidates, and the files to keep as artifacts."""
    pictures = {
        "train-supernet": run.supernet.images, "retrain": run.retrain.images,
        "evaluate": run.evaluation_images,
    }  # fmt: skip
    if stage in pictures and pictures[stage].is_file():
        mirror.image("images", pictures[stage])
    if stage == "search":
        for path in sorted(run.figures.glob("*.png")):
            mirror.image(f"search/{path.stem}", path)
        mirror.table("search/candidates", COLUMNS, table_rows(candidates))
        mirror.table("search/pareto", FRONT_COLUMNS, front_rows(read_json(run.pareto, [])))
        if run.check.exists():
            mirror.table("search/check", check_result.COLUMNS, check_result.table_rows(check_result.read_check(run)))
        if rows := read_rows(run):
            mirror.table("search/finalists", finalists_plot.COLUMNS, finalists_plot.table_rows(rows))
        if run.best.exists():
            mirror.artifact("best-spec", "spec", run.best)
    if stage == "export":
        mirror.artifact(f"{run.name}-model", "model", run.export)


def _scores(candidates: list[Candidate]) -> dict[int, list[float]]:
    """Return the scores by generation; a final score belongs to the generation that proposed the candidate."""
    scores: dict[int, list[float]] = {}
    for candidate in candidates:
        scores.setdefault(candidate.generation, []).append(candidate.value)
    return scores

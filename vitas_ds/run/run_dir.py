"""A run's folder: every path of it, what is written at each start, and when it may be gone on with.

    runs/NAME/
      config.yaml                 the resolved configuration of the latest start
      manifest.json               one entry a start: command, git, versions, world size, machine, time
      metrics.jsonl               one object a line: stage, step, time, values (tracking.py)
      summary.json                per stage its headline numbers
      wandb_ids.json, wandb/      W&B's run id of each stage, and its files
      search_images.txt           images held out of the supernet's training
      life/                       each rank's last sign of life (watchdog.py)
      supernet/
        checkpoints/              ZeRO checkpoints to resume from
        weights.safetensors       the trained supernet, consolidated
      search/
        ledger.jsonl              a line for each scored candidate
        pareto.json, best.json    what was found
      retrain/
        spec.json                 the net that is trained
        checkpoints/
        model/                    the trained net: model.safetensors, spec.json, preprocess.json, README.md
      export/                     model.safetensors, spec.json, README.md
      report/index.html           one page, readable without a network

Nothing here needs torch, so that a report or a conflict takes no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vitas_ds.config import Config
from vitas_ds.errors import UserError, first_error
from vitas_ds.run.files import read_json, write_json


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. Nothing is created by asking for a path."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.path.name

    @property
    def config(self) -> Path:
        """Resolved configuration, YAML."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """What was started when, with which versions."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """Progress of all stages, a JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Headline numbers of each stage."""
        return self.path / "summary.json"

    @property
    def wandb_ids(self) -> Path:
        """W&B's run id of each stage."""
        return self.path / "wandb_ids.json"

    @property
    def life(self) -> Path:
        """The ranks' signs of life."""
        return self.path / "life"

    @property
    def supernet(self) -> Path:
        """Folder of the stage train-supernet."""
        return self.path / "supernet"

    @property
    def supernet_checkpoints(self) -> Path:
        """ZeRO checkpoints of the supernet."""
        return self.supernet / "checkpoints"

    @property
    def supernet_weights(self) -> Path:
        """The trained supernet, consolidated."""
        return self.supernet / "weights.safetensors"

    @property
    def search_images(self) -> Path:
        """Names of the images held out of the supernet's training, one a line."""
        return self.path / "search_images.txt"

    @property
    def search(self) -> Path:
        """Folder of the stage search."""
        return self.path / "search"

    @property
    def ledger(self) -> Path:
        """Scored candidates, a JSON object a line."""
        return self.search / "ledger.jsonl"

    @property
    def pareto(self) -> Path:
        """The front of score against cost."""
        return self.search / "pareto.json"

    @property
    def best(self) -> Path:
        """The best candidate: spec, cost, score."""
        return self.search / "best.json"

    @property
    def retrain(self) -> Path:
        """Folder of the stage retrain."""
        return self.path / "retrain"

    @property
    def retrain_spec(self) -> Path:
        """The net that retrain trains."""
        return self.retrain / "spec.json"

    @property
    def retrain_checkpoints(self) -> Path:
        """ZeRO checkpoints of the retrained net."""
        return self.retrain / "checkpoints"

    @property
    def retrain_model(self) -> Path:
        """The retrained net: a folder as an exported model's."""
        return self.retrain / "model"

    @property
    def retrain_weights(self) -> Path:
        """The retrained net's tensors, consolidated."""
        return self.retrain_model / "model.safetensors"

    @property
    def export(self) -> Path:
        """The exported model's folder."""
        return self.path / "export"

    @property
    def report(self) -> Path:
        """The report's folder."""
        return self.path / "report"


def run_of(config: Config) -> RunDir:
    """The folder of the run that a configuration names, whether it is there or not."""
    return RunDir(Path(config.run.dir) / config.run.name)


def read_config(run: RunDir) -> Config:
    """The configuration of the run's latest start. Raises ``UserError`` if there is none, or of another version."""
    try:
        return Config.model_validate(yaml.safe_load(run.config.read_text()))
    except FileNotFoundError:
        raise UserError(f"{run.path}: no such run (there is no {run.config.name} in it)") from None
    except ValidationError as error:
        raise UserError(f"{run.config}: written by another version: {first_error(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{run.config}: not YAML: {' '.join(str(error).split())}") from None


def read_summary(run: RunDir) -> dict[str, Any]:
    """``summary.json``; empty before the first stage has ended."""
    return read_json(run.summary, {})


def update_summary(run: RunDir, stage: str, values: dict[str, Any]) -> None:
    """Merge a stage's headline numbers into ``summary.json`` (rank 0 only)."""
    summary = read_summary(run)
    write_json(run.summary, summary | {stage: summary.get(stage, {}) | values})

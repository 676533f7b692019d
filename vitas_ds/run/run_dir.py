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
class TrainingDir:
    """Paths of one training stage: ``supernet/`` or ``retrain/``."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the ZeRO checkpoints."""
        return self.path / "checkpoints"

    @property
    def images(self) -> Path:
        """Picture of the first training batch."""
        return self.path / "images.png"

    @property
    def divergence(self) -> Path:
        """Record of the latest steps with a non-finite gradient; ``--replay`` reads it."""
        return self.path / "divergence.json"


@dataclass(frozen=True)
class RunDir:
    """Paths of one run. No property creates a file."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the run, which is the name of its folder."""
        return self.path.name

    @property
    def config(self) -> Path:
        """Resolved configuration, YAML."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Command, git commit and versions of each start."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """Metrics of all stages, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Headline numbers of each stage."""
        return self.path / "summary.json"

    @property
    def wandb_ids(self) -> Path:
        """W&B run id of each stage."""
        return self.path / "wandb_ids.json"

    @property
    def life(self) -> Path:
        """Folder of the ranks' heartbeats."""
        return self.path / "life"

    @property
    def classes(self) -> Path:
        """Class names and their indices."""
        return self.path / "classes.json"

    @property
    def measured_latencies(self) -> Path:
        """Measured latencies, shared by all runs in the same folder."""
        return self.path.parent / "latency.jsonl"

    @property
    def supernet(self) -> TrainingDir:
        """Paths of the stage train-supernet."""
        return TrainingDir(self.path / "supernet")

    @property
    def supernet_weights(self) -> Path:
        """Consolidated weights of the trained supernet."""
        return self.supernet.path / "weights.safetensors"

    @property
    def supernet_latency(self) -> Path:
        """Latency predictor of the stage train-supernet."""
        return self.supernet.path / "latency.json"

    @property
    def search_images(self) -> Path:
        """Names of the images held out of supernet training, one per line."""
        return self.path / "search_images.txt"

    @property
    def search(self) -> Path:
        """Folder of the stage search."""
        return self.path / "search"

    @property
    def ledger(self) -> Path:
        """Scored candidates, one JSON object per line."""
        return self.search / "ledger.jsonl"

    @property
    def races(self) -> Path:
        """Partial scores of a search with racing, one JSON object per line."""
        return self.search / "races.jsonl"

    @property
    def pareto(self) -> Path:
        """Pareto front of score against cost."""
        return self.search / "pareto.json"

    @property
    def best(self) -> Path:
        """Best candidate: spec, costs, score."""
        return self.search / "best.json"

    @property
    def baselines(self) -> Path:
        """Best candidate of each baseline."""
        return self.search / "baselines.json"

    @property
    def baseline_scores(self) -> Path:
        """Scored candidates of the baselines, one JSON object per line."""
        return self.search / "baselines.jsonl"

    @property
    def search_latency(self) -> Path:
        """Latency predictor of the stage search."""
        return self.search / "latency.json"

    @property
    def figures(self) -> Path:
        """Folder of the search's figures."""
        return self.search / "figures"

    @property
    def retrain(self) -> TrainingDir:
        """Paths of the stage retrain."""
        return TrainingDir(self.path / "retrain")

    @property
    def retrain_spec(self) -> Path:
        """Spec of the network to retrain."""
        return self.retrain.path / "spec.json"

    @property
    def retrain_model(self) -> Path:
        """Folder of the retrained network, in the format of an exported model."""
        return self.retrain.path / "model"

    @property
    def retrain_weights(self) -> Path:
        """Consolidated weights of the retrained network."""
        return self.retrain_model / "model.safetensors"

    @property
    def evaluation_images(self) -> Path:
        """Picture of the first validation batch."""
        return self.path / "evaluation_images.png"

    @property
    def export(self) -> Path:
        """Folder of the exported model."""
        return self.path / "export"

    @property
    def export_weights(self) -> Path:
        """Weights of the exported model."""
        return self.export / "model.safetensors"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report" / "index.html"

    def comparison(self, other: RunDir) -> Path:
        """Return the path of the HTML page that compares this run with another one."""
        return self.report.with_name(f"{self.name}_against_{other.name}.html")


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

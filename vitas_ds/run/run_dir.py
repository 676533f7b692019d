"""Paths of a run folder, and its configuration. Importing this module does not import torch.

runs/latency.jsonl            measured latencies, shared by all runs
runs/NAME/
  config.yaml                 resolved configuration of the latest start
  manifest.json               one entry per start: command, git commit, versions, world size, machine, time
  metrics.jsonl               one object per line: stage, step, time, values
  summary.json                headline numbers of each stage
  writer-N.json               the job that writes to the run, or was the last one (lock.py)
  classes.json                class names and their indices
  contents/                   sizes, times and digests of the images behind the results
  search_images.txt           images held out of supernet training
  wandb_ids.json, wandb/      W&B run id, and W&B's files
  tensorboard/                event files of each stage (only with tracking.tensorboard)
  life/                       heartbeats of the ranks (watchdog.py), steps and remaining time of the stage (total.json)
  supernet/
    checkpoints/              ZeRO checkpoints to resume from
    weights.safetensors       the trained supernet, consolidated
    result.json               numbers for summary.json
    inputs.json               versions and digests of the inputs; also in search/ and retrain/
    images.png                first training batch
    subnets.json              subnets whose accuracy is measured during training
    latency.json              latency predictor (only with supernet.throughput)
    pretrained/               the network of supernet.init with reordered units, in the format of export/
    importance.json           importance of its units; importance.png is a plot
    trace.json.gz             steps of engine.profile; operators.json lists the most expensive operators
    divergence.json           latest steps with a non-finite gradient; divergence/ has the weights
  search/
    ledger.jsonl              one line per scored candidate; races.jsonl has partial scores
    pareto.json, best.json    results
    baselines.json            best candidates of the baselines; baselines.jsonl has all
    finalists.jsonl           one line per finalist and rung; finalists/ has states of their trainings
    check.json                how well the supernet ranks a few networks; check/ has their trainings
    latency.json              latency predictor
    figures/
  retrain/
    spec.json                 the network to retrain
    checkpoints/, result.json, images.png, divergence.json
    model/                    the retrained network, in the format of export/
  evaluation.json             result of the stage evaluate
  evaluation_images.png       first validation batch
  export.json                 numbers of the stage export
  export/                     model.safetensors, spec.json, preprocess.json, README.md, ...
  report/                     index.html and comparisons, readable offline; hand_scaled.json
  old/N/                      results that --redo moved aside (aside.py), a run of its own
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vitas_ds.config import Config, validate
from vitas_ds.config.parse import parse_config
from vitas_ds.errors import UserError, explain, is_version_01
from vitas_ds.errors.reading import MAX_RECIPE, read_text
from vitas_ds.run.training_dir import TrainingDir


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
        """W&B run id of the run, as ``run``. Version 0.1 had one per stage."""
        return self.path / "wandb_ids.json"

    @property
    def tensorboard(self) -> Path:
        """Folder of the event files of TensorBoard, one folder per stage."""
        return self.path / "tensorboard"

    @property
    def life(self) -> Path:
        """Folder of the ranks' heartbeats."""
        return self.path / "life"

    @property
    def total(self) -> Path:
        """Number of steps of the stage that started last."""
        return self.life / "total.json"

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
    def pretrained(self) -> Path:
        """Folder of the reordered network of ``supernet.init``."""
        return self.supernet.path / "pretrained"

    @property
    def importance(self) -> Path:
        """Importance of the units of the network of ``supernet.init``."""
        return self.supernet.path / "importance.json"

    @property
    def supernet_subnets(self) -> Path:
        """Subnets whose accuracy is measured during the training of the supernet."""
        return self.supernet.path / "subnets.json"

    @property
    def contents(self) -> Path:
        """Folder of the records of images that results were made from, see ``data/contents.py``."""
        return self.path / "contents"

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
    def finalists(self) -> Path:
        """Accuracy of each finalist after each rung, one JSON object per line."""
        return self.search / "finalists.jsonl"

    @property
    def finalist_states(self) -> Path:
        """Folder of the states and results of the finalists' trainings."""
        return self.search / "finalists"

    @property
    def check(self) -> Path:
        """How well the supernet ranks a few networks: Kendall's tau, and the networks."""
        return self.search / "check.json"

    @property
    def check_states(self) -> Path:
        """Folder of the trainings of the check."""
        return self.search / "check"

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
    def evaluation(self) -> Path:
        """Result of the stage evaluate, with everything it depends on."""
        return self.path / "evaluation.json"

    @property
    def export(self) -> Path:
        """Folder of the exported model."""
        return self.path / "export"

    @property
    def export_result(self) -> Path:
        """Numbers of the stage export."""
        return self.path / "export.json"

    @property
    def export_weights(self) -> Path:
        """Weights of the exported model."""
        return self.export / "model.safetensors"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report" / "index.html"

    def comparison(self, *others: RunDir) -> Path:
        """Return the path of the HTML page that compares this run with others."""
        return self.report.with_name("_against_".join([self.name, *(other.name for other in others)]) + ".html")


def run_of(config: Config) -> RunDir:
    """Return the run folder of a configuration. It need not exist."""
    return RunDir(Path(config.run.dir) / config.run.name)


def reused_ledger(reuse: str) -> Path:
    """Return the ledger that ``search.reuse`` names, as a run or as a file. It need not exist."""
    path = Path(reuse)
    return RunDir(path).ledger if path.is_dir() else path


def read_config(run: RunDir) -> Config:
    """Return the configuration of the latest start of a run.

    Raises:
        UserError: There is none, or another version wrote it.
    """
    try:
        return validate(parse_config(read_text(run.config, MAX_RECIPE), str(run.config)))
    except FileNotFoundError:
        raise UserError(f"{run.path}: no such run (there is no {run.config.name} in it)") from None
    except ValidationError as error:
        if is_version_01(error):
            raise UserError(
                f"{run.config}: written by version 0.1; this run cannot be resumed with version 0.2; "
                "set another run.name, or install version 0.1"
            ) from None
        raise UserError(f"{run.config}: written by another version: {explain(error, Config)}") from None

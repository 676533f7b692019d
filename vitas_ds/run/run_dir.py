"""Paths of a run folder, its configuration and its summary. Importing this module does not import torch.

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
  life/                       heartbeats of the ranks (watchdog.py), and the steps of the stage (total.json)
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

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vitas_ds.config import Config, validate
from vitas_ds.config.parse import parse_config
from vitas_ds.errors import UserError, explain, is_version_01
from vitas_ds.errors.reading import MAX_RECIPE, as_written, read_text
from vitas_ds.run import lock
from vitas_ds.run.files import file_digest, read_json, tensors_header, to_json, write_json
from vitas_ds.run.training_dir import TrainingDir

DIGEST = "sha256 of numbers and product"
OF_CANDIDATE = (  # fields of best.json besides the headline numbers
    "top", "dropped", "budgets", "images", "generation", "seconds", "rank", "search_score", "searched_on",
)  # fmt: skip
SHAPE = ("patch_size", "embed_dim", "layers")  # fields of a spec that a recipe does not give


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


def read_summary(run: RunDir) -> dict[str, Any]:
    """Return the headline numbers of the finished stages: ``summary.json``, and numbers missing there after a kill.

    A training and an export write their numbers before their product, an evaluation writes them to a file of its own,
    and ``best.json`` has those of a search. A job killed while it moved stages aside left their numbers here.
    """
    summary = {stage: numbers for stage, numbers in read_json(run.summary, {}).items()
               if not _is_aside(run, stage, numbers)}  # fmt: skip
    with as_written():
        for stage, (record, product) in _records(run).items():
            numbers = read_json(record, {})
            digest = numbers.pop(DIGEST, None)
            made = product.is_file() if product else _measured_here(run, numbers)
            if digest and made and digest == _digest(numbers, product):
                summary[stage] = summary.get(stage, {}) | numbers
        best, known = read_json(run.best, {}), summary.get("search", {}).get("best")
        spec = best.get("spec")
        if spec and (known is None or known.get("spec", spec) != spec):
            found = {name: value for name, value in best.items() if name not in OF_CANDIDATE}
            summary["search"] = summary.get("search", {}) | {"best": found}
        evaluated = summary.get("evaluate", {})
        if evaluated.get("model") == "retrain" and "retrain" in summary:
            summary["retrain"] |= {name: evaluated[name] for name in ("top1", "top5")}
    return summary


def _measured_here(run: RunDir, numbers: dict[str, Any]) -> bool:
    """Return whether an evaluation of the retrained network is one of this run, whose model folder has its digest."""
    if numbers.get("model") != "retrain":
        return True
    return numbers.get("sha256") in read_json(run.retrain_model / "config.json", {}).get("sha256", {}).values()


def trains_older_network(run: RunDir) -> bool:
    """Return whether the search has found another best network since the stage retrain trained its best one."""
    trained, best = read_json(run.retrain_spec, {}), read_json(run.best, {}).get("spec", {})
    if all(trained.get(name) == best.get(name) for name in SHAPE) or not (trained and best):
        return False
    return read_config(run).retrain.spec in ("search:best", "search:best[1]")


def _is_aside(run: RunDir, stage: str, numbers: Any) -> bool:
    """Return whether these numbers belong to results in ``old`` (aside.py)."""
    results = {"train-supernet": run.supernet.path, "search": run.search, "retrain": run.retrain.path,
               "evaluate": run.evaluation, "export": run.export}  # fmt: skip
    if stage not in results or results[stage].exists():
        return False
    return any(read_json(path, {}).get(stage) == numbers for path in (run.path / "old").glob("*/summary.json"))


def _records(run: RunDir) -> dict[str, tuple[Path, Path | None]]:
    """Return the file with the numbers of each stage, and the product that exists once it has ended, if there is one.

    Of a model folder, it is the small file with the digests of the others.
    """
    return {
        "train-supernet": (run.supernet.result, run.supernet_weights),
        "retrain": (run.retrain.result, run.retrain_model / "config.json"),
        "evaluate": (run.evaluation, None),
        "export": (run.export_result, run.export / "README.md"),
    }


def write_result(run: RunDir, stage: str, numbers: dict[str, Any], product: Path | None = None) -> None:
    """Write the headline numbers of a stage (rank 0 only) before its product gets its name.

    They count only together with this product: an earlier one may have its name.

    Args:
        run: The run.
        stage: The stage.
        numbers: The numbers.
        product: The file that will be the product of ``_records``, under its temporary name.
    """
    record, _ = _records(run)[stage]
    write_json(record, numbers | {DIGEST: _digest(numbers, product)})


def _digest(numbers: dict[str, Any], product: Path | None) -> str:
    """Return a SHA-256 of numbers and their product; of weights only the header counts, which has their digest."""
    digest = hashlib.sha256(to_json(numbers).encode())
    if product and ".safetensors" in product.name:
        digest.update(tensors_header(product))
    elif product:
        digest.update(file_digest(product).encode())
    return digest.hexdigest()


def update_summary(run: RunDir, stage: str, values: dict[str, Any]) -> None:
    """Merge a stage's headline numbers into ``summary.json`` (rank 0 only)."""
    summary = read_summary(run)
    write_json(run.summary, summary | {stage: summary.get(stage, {}) | values})


def complete_summary(run: RunDir) -> None:
    """Add numbers missing in ``summary.json`` after a kill (rank 0 only), unless another job writes to the run."""
    if not run.path.is_dir() or not lock.is_free(run.path):
        return
    summary = read_summary(run)
    with suppress(OSError):  # read_summary has the same numbers, also if the folder is not writable
        if summary != read_json(run.summary, {}):
            write_json(run.summary, summary)

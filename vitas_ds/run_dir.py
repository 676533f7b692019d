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

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vitas_ds.config import Config
from vitas_ds.errors import UserError, first_error
from vitas_ds.recipe import dump

PACKAGES = ("torch", "torchvision", "deepspeed", "nvidia-dali-cuda130", "pymoo", "numpy", "wandb")


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


# What may not change between starts of one run, once any stage has something to lose; a stage's own settings once
# that stage has. A checkpoint fits any ZeRO stage and number of ranks, so that these are free.
ALWAYS = (
    "space", "run.seed", "data.train", "data.val", "data.search_per_class", "data.exclude", "data.resize",
    "data.mean", "data.std",
)  # fmt: skip
TRAINED = ("engine.precision",)
_FREE_IN_TRAINING = {
    "accumulate", "log_every", "save_every", "save_minutes", "keep", "keep_every", "keep_best", "max_nonfinite",
}  # fmt: skip
FREE = {
    "supernet": _FREE_IN_TRAINING,
    "retrain": _FREE_IN_TRAINING,
    "search": {"generations", "top_k", "ranks_per_candidate", "baselines"},
}


def run_of(config: Config) -> RunDir:
    """The folder of the run that a configuration names, whether it is there or not."""
    return RunDir(Path(config.run.dir) / config.run.name)


def find_run(config: Config) -> RunDir:
    """The run's folder for a stage that has yet to read its inputs; writes nothing. Raises as ``open_run`` does."""
    run = run_of(config)
    check_same_recipe(config, run)
    return run


def open_run(config: Config, ranks_main: bool, *, stage: str = "", world_size: int = 1) -> RunDir:
    """Create the run's folder or open it again; rank 0 writes ``config.yaml`` and an entry of ``manifest.json``.

    Raises:
        UserError: the folder holds a run whose recipe differs in what matters (the line names the first such field),
            or is no run's folder, or cannot be written. Nothing is overwritten then.
    """
    run = run_of(config)
    check_same_recipe(config, run)
    if ranks_main:
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            write_text(run.config, dump(config))
            starts = read_json(run.manifest, {}).get("starts", [])
            write_json(run.manifest, {"run": run.name, "starts": [*starts, _start(stage, world_size)]})
        except OSError as error:
            raise UserError(f"run.dir: {run.path} cannot be written ({error.strerror})") from None
    return run


def check_same_recipe(config: Config, run: RunDir) -> None:
    """Raise ``UserError`` if ``run`` holds results of another recipe; fields that do not touch results may differ."""
    if not run.config.exists():
        strays = [p.name for p in (run.supernet, run.search, run.retrain) if p.exists()]
        if strays:
            raise UserError(f"{run.path}: holds {strays[0]}/ but no config.yaml; give another run.name")
        return
    before = read_config(run)
    old, new = before.model_dump(mode="json"), config.model_dump(mode="json")
    for field in _fixed_fields(run, new):
        a, b = _get(old, field), _get(new, field)
        if a != b and not _same_folder(field, a, b):
            raise UserError(
                f"{run.path}: belongs to a run with {field}={json.dumps(a)}, this one has {json.dumps(b)}; "
                f"give another run.name, or remove {run.path} to start over"
            )


def _same_folder(field: str, a: Any, b: Any) -> bool:
    """Whether two words for a folder of images mean the same one."""
    return field in ("data.train", "data.val") and bool(a and b) and os.path.realpath(a) == os.path.realpath(b)


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


def _fixed_fields(run: RunDir, config: dict[str, Any]) -> Iterator[str]:
    """Dotted names of the fields that this run's results depend on."""
    trained = {
        "supernet": _has_files(run.supernet_checkpoints) or run.supernet_weights.exists(),
        "retrain": _has_files(run.retrain_checkpoints) or run.retrain_weights.exists(),
    }
    names = list(TRAINED) if any(trained.values()) else []
    names += [section for section, started in trained.items() if started]
    if run.ledger.exists():
        names.append("search")
    if names:  # a start that came to nothing binds nobody
        names += ALWAYS
    for name in names:
        for leaf in _leaves(_get(config, name), name):
            section, _, field = leaf.partition(".")
            if field not in FREE.get(section, ()):
                yield leaf


def _leaves(value: Any, name: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield name
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{name}.{key}")


def _get(config: dict[str, Any], name: str) -> Any:
    value: Any = config
    for key in name.split("."):
        value = value[key]
    return value


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _start(stage: str, world_size: int) -> dict[str, Any]:
    """A manifest entry: what is started now, by which command, on what."""
    return {
        "stage": stage,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.executable), *sys.orig_argv[1:]],
        "folder": os.getcwd(),
        "world_size": world_size,
        "local_world_size": int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world_size),
        "git": git_commit(),
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in PACKAGES},
        "machine": {"host": platform.node(), "system": platform.platform(), "cores": os.cpu_count()},
    }


def version_of(package: str) -> str | None:
    """The installed version of a package, without importing it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, ``+changes`` if files differ; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("rev-parse", "--show-toplevel") != str(root):  # installed into a folder of some other repository
        return None
    commit = git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def read_summary(run: RunDir) -> dict[str, Any]:
    """``summary.json``; empty before the first stage has ended."""
    return read_json(run.summary, {})


def update_summary(run: RunDir, stage: str, values: dict[str, Any]) -> None:
    """Merge a stage's headline numbers into ``summary.json`` (rank 0 only)."""
    summary = read_summary(run)
    write_json(run.summary, summary | {stage: summary.get(stage, {}) | values})


def read_json(path: Path, missing: Any) -> Any:
    """What a JSON file holds, ``missing`` if it is not there. Raises ``UserError`` if it is no JSON."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return missing
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None
    if isinstance(missing, dict) and not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object; move it away, it is written again")
    return data


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` whole or not at all; see ``to_json``."""
    write_text(path, to_json(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all: aside, flushed to the disk, renamed. Its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that any reader takes: arrays and tensors as lists, paths as text, nan and infinity as null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy, torch
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

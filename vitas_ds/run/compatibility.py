"""Check whether a run may continue with a given configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitas_ds.config import Config
from vitas_ds.config.parse import with_absolute_paths
from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import RunDir, read_config

# Fixed once any stage has results. A checkpoint fits any ZeRO stage and any number of ranks, so those may change.
ALWAYS = (
    "space", "run.seed", "data.train", "data.search_per_class", "data.exclude", "data.resize",
    "data.mean", "data.std", "data.decoder", "data.synthetic",
)  # fmt: skip
FOLDERS = (
    "data.train", "supernet.teacher.model", "retrain.teacher.model", "supernet.teacher.weights",
    "retrain.teacher.weights", "retrain.init", "search.checkpoint", "search.reuse",
)  # fmt: skip
PLACE = ("run.name", "run.dir")
TRAINED = ("engine.precision",)  # fixed once a network has been trained

# A stage's own section is fixed once that stage has results, except these fields.
_FREE_IN_TRAINING = {
    "grad_accum_steps", "log_every", "save_every", "save_minutes", "keep", "keep_every", "keep_best", "max_nonfinite",
}  # fmt: skip
FREE = {
    "supernet": _FREE_IN_TRAINING | {"eval_every"},
    "retrain": _FREE_IN_TRAINING | {"eval_every"},
    "search": {
        "generations", "top_k", "ranks_per_candidate", "baselines", "latency_also",
        # check and finalists compare what their results depend on
        "check.nets", "check.steps",
        "finalists.count", "finalists.steps", "finalists.keep", "finalists.init",
    },
}  # fmt: skip


def check_same_recipe(config: Config, run: RunDir) -> None:
    """Check that ``config`` fits the results in ``run``. Fields that do not affect results may differ.

    Raises:
        UserError: A field differs (the message names the first one), or the folder is not a run folder.
    """
    if not run.config.exists():
        stage_folders = (run.supernet.path, run.search, run.retrain.path)
        if found := [path.name for path in stage_folders if path.exists()]:
            raise UserError(f"{run.path}: contains {found[0]}/ but no config.yaml; set another run.name")
        return
    before = read_config(run)
    old, new = (with_absolute_paths(c).model_dump(mode="json") for c in (before, config))
    for field in _fixed_fields(run, new):
        a, b = _get(old, field), _get(new, field)
        if a != b and not _same_folder(field, a, b):
            fix = (
                f"to keep its settings, give {run.path} instead of a recipe; or set another run.name, or remove "
                f"{run.path} to start over"
            )
            if field.startswith("retrain."):
                fix = f"move {run.retrain.path} away to train it again; supernet and search stay"
            raise UserError(
                f"{run.path}: belongs to a run with {field}={json.dumps(a)}, this one has {json.dumps(b)}; {fix}"
            )


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of every setting that differs, by its dotted name, except name and folder."""
    one, two = (dict(leaves(with_absolute_paths(c).model_dump(mode="json"))) for c in (old, new))
    return {name: (one[name], two[name]) for name in two if one[name] != two[name] and name not in PLACE}


def _same_folder(field: str, a: Any, b: Any) -> bool:
    """Return whether two values of a field that names a folder are paths of the same folder."""
    return field in FOLDERS and bool(a and b) and os.path.realpath(a) == os.path.realpath(b)


def _fixed_fields(run: RunDir, config: dict[str, Any]) -> Iterator[str]:
    """Yield the dotted names of the fields that this run's results depend on."""
    trained = {
        "supernet": _has_files(run.supernet.checkpoints) or run.supernet_weights.exists(),
        "retrain": _has_files(run.retrain.checkpoints) or run.retrain_weights.exists(),
    }
    names = list(TRAINED) if any(trained.values()) else []
    names += [section for section, started in trained.items() if started]
    if run.ledger.exists():
        names.append("search")
    if names:  # a run without results may change freely
        names += ALWAYS
    for name in names:
        for leaf, _ in leaves(_get(config, name), name):
            section, _, field = leaf.partition(".")
            if field not in FREE.get(section, ()):
                yield leaf


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every setting in a section or a whole configuration."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{name}.{key}" if name else key)


def _get(config: dict[str, Any], name: str) -> Any:
    value: Any = config
    for key in name.split("."):
        value = value[key]
    return value


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())

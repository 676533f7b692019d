"""Which settings may change between two starts of one run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import RunDir, read_config

# What may not change between starts of one run, once any stage has something to lose; a stage's own settings once
# that stage has. A checkpoint fits any ZeRO stage and number of ranks, so that these are free.
ALWAYS = (
    "space", "run.seed", "data.train", "data.val", "data.search_per_class", "data.exclude", "data.resize",
    "data.mean", "data.std",
)  # fmt: skip


TRAINED = ("engine.precision",)


_FREE_IN_TRAINING = {
    "grad_accum_steps", "log_every", "save_every", "save_minutes", "keep", "keep_every", "keep_best", "max_nonfinite",
}  # fmt: skip


FREE = {
    "supernet": _FREE_IN_TRAINING,
    "retrain": _FREE_IN_TRAINING,
    "search": {"generations", "top_k", "ranks_per_candidate", "baselines"},
}


def check_same_recipe(config: Config, run: RunDir) -> None:
    """Raise ``UserError`` if ``run`` holds results of another recipe; fields that do not touch results may differ."""
    if not run.config.exists():
        strays = [p.name for p in (run.supernet.path, run.search, run.retrain.path) if p.exists()]
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


def _fixed_fields(run: RunDir, config: dict[str, Any]) -> Iterator[str]:
    """Dotted names of the fields that this run's results depend on."""
    trained = {
        "supernet": _has_files(run.supernet.checkpoints) or run.supernet_weights.exists(),
        "retrain": _has_files(run.retrain.checkpoints) or run.retrain_weights.exists(),
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

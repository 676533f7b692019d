"""Check whether a run may continue with a given configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitas_ds.config import Config, format_value
from vitas_ds.config.absolute import with_absolute_paths
from vitas_ds.errors import Stale, UserError
from vitas_ds.run.run_dir import RunDir, read_config

# Fixed once any stage has results. A checkpoint fits any ZeRO stage and any number of ranks, so those may change.
# The stages compare the images of data.train with those they started with (stages/inputs.py); their folder may change.
ALWAYS = (
    "space", "run.seed", "data.search_per_class", "data.exclude", "data.resize",
    "data.mean", "data.std", "data.decoder", "data.synthetic",
)  # fmt: skip
FOLDERS = (
    "supernet.teacher.model", "retrain.teacher.model", "supernet.teacher.weights",
    "retrain.teacher.weights", "supernet.init", "supernet.weights", "retrain.init", "retrain.spec",
    "search.checkpoint", "search.reuse",
)  # fmt: skip
PLACE = ("run.name", "run.dir")
TRAINED = ("engine.precision",)  # fixed once a network has been trained
BUDGETS = tuple(
    f"search.{name}" for name in ("macs", "vitas_flops", "params", "activations", "latency", "throughput", "budgets")
)  # fixed while a supernet samples its subnets within them
MAX_SHOWN = 6  # changed settings on one line

# A stage's own section is fixed once that stage has results, except these fields.
_FREE_IN_TRAINING = {
    "grad_accum_steps", "log_every", "save_every", "save_minutes", "keep", "keep_every", "keep_best", "max_nonfinite",
}  # fmt: skip
FREE = {
    "supernet": _FREE_IN_TRAINING | {"eval_every"},
    "retrain": _FREE_IN_TRAINING | {"eval_every"},
    "search": {
        "generations", "top_k", "ranks_per_candidate", "baselines", "latency_also", "budgets",
        # check and finalists compare what their results depend on
        "check.nets", "check.steps", "check.correct",
        "finalists.count", "finalists.steps", "finalists.keep", "finalists.init",
    },
}  # fmt: skip


def check_same_recipe(config: Config, run: RunDir) -> None:
    """Check that ``config`` fits the results in ``run``. Fields that do not affect results may differ.

    Raises:
        Stale: A field differs. The error is about the first stage with such results; the message names one field.
        UserError: The folder is not a run folder.
    """
    if not run.config.exists():
        stage_folders = (run.supernet.path, run.search, run.retrain.path)
        if found := [path.name for path in stage_folders if path.exists()]:
            raise UserError(f"{run.path}: contains {found[0]}/ but no config.yaml; set another run.name")
        return
    before = read_config(run)
    old, new = (with_absolute_paths(c).model_dump(mode="json") for c in (before, config))
    for stage in stages_with_results(run):
        fields = [*_fixed_fields(stage, new), *(BUDGETS if stage == "train-supernet" and _in_budgets(new, run) else ())]
        changes = {name: (_get(old, name), _get(new, name)) for name in fields}
        changes = {name: (a, b) for name, (a, b) in changes.items() if a != b and not _same_folder(name, a, b)}
        if changes:
            field, (a, b) = next(iter(changes.items()))
            raise Stale(
                run.path, stage, ", ".join(describe(changes)),
                f"{run.path}: belongs to a run with {field}={json.dumps(a)}, this one has {json.dumps(b)}; to keep its "
                "settings, give its folder instead of a recipe; or set another run.name",
            )  # fmt: skip


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of every setting that differs, by its dotted name, except name and folder."""
    one, two = (dict(leaves(with_absolute_paths(c).model_dump(mode="json"))) for c in (old, new))
    return {name: (one[name], two[name]) for name in two if one[name] != two[name] and name not in PLACE}


def describe(changes: dict[str, tuple[Any, Any]]) -> list[str]:
    """Return a text for each changed setting, such as ``search.generations 6 -> 12``; at most six."""
    shown = [f"{name} {format_value(old)} -> {format_value(new)}" for name, (old, new) in changes.items()]
    return shown[:MAX_SHOWN] + ([f"and {len(shown) - MAX_SHOWN} more"] if len(shown) > MAX_SHOWN else [])


def _same_folder(field: str, a: Any, b: Any) -> bool:
    """Return whether two values of a field that names a folder are paths of the same folder."""
    return field in FOLDERS and bool(a and b) and os.path.realpath(a) == os.path.realpath(b)


def stages_with_results(run: RunDir) -> list[str]:
    """Return the stages with settings fixed by full or partial results, in their order."""
    begun = {
        "train-supernet": _has_files(run.supernet.checkpoints) or run.supernet_weights.exists(),
        "search": run.ledger.exists(),
        "retrain": _has_files(run.retrain.checkpoints) or run.retrain_weights.exists(),
    }
    return [stage for stage, has_results in begun.items() if has_results]


def _fixed_fields(stage: str, config: dict[str, Any]) -> Iterator[str]:
    """Yield the dotted names of the fields that the results of a stage depend on."""
    section = stage.removeprefix("train-")
    for name in (section, *(() if stage == "search" else TRAINED), *ALWAYS):
        for leaf, _ in leaves(_get(config, name), name):
            top, _, field = leaf.partition(".")
            if field not in FREE.get(top, ()):
                yield leaf


def _in_budgets(config: dict[str, Any], run: RunDir) -> bool:
    """Return whether an unfinished supernet samples its subnets by the budgets of the search."""
    supernet = config["supernet"]
    fitted = config["space"]["identity"] and not (supernet["macs"] or supernet["throughput"])
    return not run.supernet_weights.exists() and (supernet["distribution"] == "budget" or fitted)


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

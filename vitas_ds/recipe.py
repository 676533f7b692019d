"""A recipe: a run's configuration as YAML, with the command line's changes. No torch.

A recipe is one of ``recipes/`` or a file of the user's; ``section.key=value`` words are laid over it; what comes out is
validated as a whole (config.py) before anything starts.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vitas_ds.config import Config
from vitas_ds.errors import UserError, first_error

RECIPES = Path(__file__).parent / "recipes"
RENAMED = {  # keys of version 0.1, by section, and their names since 0.2
    "engine": {"checkpoint_activations": "grad_checkpointing"},
    "training": {
        "accumulate": "grad_accum_steps", "ema": "ema_decay", "init_from": "resume_from",
        "weights_from": "init_weights",
    },
    "augment": {"views": "aug_repeats"},
    "mixing": {"switch": "switch_prob"},
    "supernet": {"budget": "macs", "rule": "sampling", "random_nets": "random_subnets"},
    "search": {"fresh": "random_fraction", "predictor": "surrogate", "latency_batch": "latency_batch_size"},
}  # fmt: skip


def load(recipe: str, overrides: list[str]) -> Config:
    """The resolved configuration of a recipe (a name in ``recipes/`` or a YAML file) and ``section.key=value`` words.

    Raises:
        UserError: no such recipe, not YAML, unknown key, wrong type or impossible value; the line says where.
    """
    path, data = read_recipe(recipe)
    for word in overrides:
        key, sep, value = word.partition("=")
        if not sep or "." not in key:
            raise UserError(f"{word}: an override has the form section.key=value")
        _put(data, key.split("."), _parse(value, word), word)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        keys = {word: word.partition("=")[0] for word in overrides}
        exact = [word for word, key in keys.items() if f"{field}.".startswith(f"{key}.")]
        near = [word for word, key in keys.items() if key.startswith(f"{field}.")]
        where = exact[-1] if exact else " with ".join([path, *near])
        empty = "no value behind the =; " if where.endswith("=") else ""
        raise UserError(f"{where}: {empty}{first_error(error)}{_hint(error)}") from None


def _hint(error: ValidationError) -> str:
    """For an unknown key: its new name, or the known key that looks most like it."""
    first = error.errors()[0]
    *sections, key = [str(part) for part in first["loc"]] or [""]
    known: Any = Config
    for name in sections:
        known = getattr(known, "model_fields", {}).get(name)
        known = known and known.annotation
    section = sections[-1] if sections else ""
    names = RENAMED.get(section, {}) | (RENAMED["training"] if section in ("supernet", "retrain") else {})
    if key in names and first["type"] == "extra_forbidden":
        return f"; version 0.2 renamed it to {names[key]}"
    near = difflib.get_close_matches(key, list(getattr(known, "model_fields", ())), 1)
    return f"; did you mean {near[0]}?" if near and first["type"] == "extra_forbidden" else ""


def read_recipe(recipe: str) -> tuple[str, dict[str, Any]]:
    """Path and contents of a recipe, of the packaged ones or of a file of the user's."""
    packaged = RECIPES / f"{recipe}.yaml"
    path = packaged if packaged.is_file() else Path(recipe)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise UserError(f"{recipe}: no such recipe; there are {names}, or give a YAML file")
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of sections")
    return str(path), {name: section for name, section in data.items() if section is not None}


def _parse(value: str, word: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{word}: the value is not YAML") from None
    try:  # YAML 1.1 reads 1e9 as a string
        return float(parsed) if isinstance(parsed, str) else parsed
    except ValueError:
        return parsed


def _put(data: dict[str, Any], keys: list[str], value: Any, word: str) -> None:
    for key in keys[:-1]:
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
        if not isinstance(data, dict):
            raise UserError(f"{word}: {key} has no keys below it")
    data[keys[-1]] = value

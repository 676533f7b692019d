"""Load a recipe: the configuration of a run as YAML, with overrides of the command line.

A recipe is a file in ``recipes/`` or any YAML file. Overrides have the form ``section.key=value``. The result is
validated as a whole (config/) before anything starts. Importing this module does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vitas_ds.config import Config
from vitas_ds.errors import UserError, explain

RECIPES = Path(__file__).parent / "recipes"


def load(recipe: str, overrides: list[str]) -> Config:
    """Return the resolved configuration of a recipe.

    Args:
        recipe: Name of a file in ``recipes/``, or path of a YAML file.
        overrides: ``section.key=value`` arguments; later ones win.

    Raises:
        UserError: The recipe does not exist or is not YAML, a key is unknown, or a value is invalid. The message names
            the override or the file.
    """
    path, data = read_recipe(recipe)
    for override in overrides:
        key, sep, value = override.partition("=")
        if not sep or "." not in key:
            raise UserError(f"{override}: an override has the form section.key=value")
        _put(data, key.split("."), _parse(value, override), override)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        where = _source(error, path, overrides)
        empty = "no value after the =; " if where.endswith("=") else ""
        raise UserError(f"{where}: {empty}{explain(error, Config)}") from None


def _source(error: ValidationError, path: str, overrides: list[str]) -> str:
    """Return the override that sets the wrong field, or else the file and the overrides inside the wrong section."""
    field = ".".join(str(part) for part in error.errors()[0]["loc"])
    keys = {override: override.partition("=")[0] for override in overrides}
    exact = [override for override, key in keys.items() if f"{field}.".startswith(f"{key}.")]
    inside = [override for override, key in keys.items() if key.startswith(f"{field}.")]
    return exact[-1] if exact else " with ".join([path, *inside])


def read_recipe(recipe: str) -> tuple[str, dict[str, Any]]:
    """Return path and contents of a recipe, without empty sections.

    Raises:
        UserError: The recipe does not exist, or is not a YAML mapping.
    """
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
        raise UserError(f"{path}: a recipe must be a mapping of sections")
    return str(path), {name: section for name, section in data.items() if section is not None}


def _parse(value: str, override: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{override}: the value is not YAML") from None
    try:  # YAML 1.1 reads 1e9 as a string
        return float(parsed) if isinstance(parsed, str) else parsed
    except ValueError:
        return parsed


def _put(data: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
        if not isinstance(data, dict):
            raise UserError(f"{override}: {key} has no keys below it")
    data[keys[-1]] = value

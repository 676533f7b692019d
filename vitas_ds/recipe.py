"""Load a recipe: the configuration of a run as YAML, with overrides of the command line.

A recipe is a file in ``recipes/`` or any YAML file. Overrides have the form ``section.key=value``. The result is
validated as a whole (config/) before anything starts. Importing this module does not import torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vitas_ds.config import Config
from vitas_ds.config.parse import parse_config, parse_value
from vitas_ds.errors import UserError, explain
from vitas_ds.errors.reading import MAX_RECIPE, read_text

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
        keys = key.split(".")
        _put(data, keys, parse_value(value, keys, override), override)
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
    path = packaged if os.path.isfile(packaged) else Path(recipe)
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that is too long
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise UserError(f"{recipe}: no such recipe; there are {names}, or give a YAML file")
    data = parse_config(read_text(path, MAX_RECIPE), str(path)) or {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe must be a mapping of sections")
    return str(path), {name: section for name, section in data.items() if section is not None}


def _put(data: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
        if not isinstance(data, dict):
            raise UserError(f"{override}: {key} has no keys below it")
    data[keys[-1]] = value

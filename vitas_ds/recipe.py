"""Load the configuration of a run: from a recipe, or from the folder of the run itself, with overrides.

A recipe is a file in ``recipes/`` or any YAML file. A run folder contains ``config.yaml``, the settings of its latest
start: a stage started with the folder needs no overrides again. Every command gets its settings here. Overrides have
the form ``section.key=value``. The result is validated as a whole (config/) before anything starts. Importing this
module does not import torch.
"""

from __future__ import annotations

import copy
import difflib
import os
import warnings
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vitas_ds.config import Config, validate
from vitas_ds.config.parse import parse_config, parse_value
from vitas_ds.errors import UserError, explain, is_version_01, shorten
from vitas_ds.errors.reading import MAX_RECIPE, read_text

RECIPES = Path(__file__).parent / "recipes"
RUN_CONFIG = "config.yaml"  # in a run folder
MAX_NAMES, MAX_LETTERS = 8, 130  # of a list in an error line


def load(recipe: str, overrides: list[str]) -> Config:
    """Return the resolved configuration of a recipe or a run.

    Args:
        recipe: Name of a file in ``recipes/``, path of a YAML file, folder of a run, or name of a run in ``run.dir``.
        overrides: ``section.key=value`` arguments; later ones win.

    Raises:
        UserError: The recipe does not exist or is not YAML, a key is unknown, or a value is invalid. The message names
            the override or the file.
    """
    folder = find_run_folder(recipe, overrides)
    path, data = read_recipe(recipe, _runs_folder(overrides)) if folder is None else _read_run(folder)
    before = copy.deepcopy(data)
    for override in overrides:
        key, sep, value = override.partition("=")
        if not sep or "." not in key:
            raise UserError(f"{override}: an override has the form section.key=value")
        keys = key.split(".")
        _check_nesting(keys, override)
        _put(data, keys, parse_value(value, keys, override), override)
    try:
        config = validate(data)
    except ValidationError as error:
        if folder is not None and is_version_01(error):
            raise UserError(f"{path}: written by version 0.1, which version 0.2 cannot continue") from None
        where = _source(error, path, overrides)
        if folder is not None and where == path and error.errors()[0]["loc"] == ("run", "name"):
            reason = f"the run is named after its folder; {explain(error, Config)}"
            raise UserError(f"{folder}: {reason}; rename the folder") from None
        empty = "no value after the =; " if where.endswith("=") else ""
        raise UserError(f"{where}: {empty}{explain(error, Config)}") from None
    _check_rates(config, before, overrides)
    return config


def _check_rates(config: Config, recipe: dict[str, Any], overrides: list[str]) -> None:
    """Warn if the command line changes a batch size, and the learning rate belongs to the recipe's batch size."""
    for section in ("supernet", "retrain"):
        training, old = getattr(config, section), recipe.get(section) or {}
        before = old.get("batch_size") if isinstance(old, dict) else None
        fixed = any(override.startswith(f"{section}.lr=") for override in overrides)
        if not fixed and isinstance(before, int) and not before / 2 < training.batch_size < before * 2:
            warnings.warn(
                f"{section}.batch_size: {training.batch_size} instead of {before}, with the learning rate of the "
                f"recipe ({training.lr:g}); scaled linearly, it is {section}.lr="
                f"{training.lr * training.batch_size / before:.3g}", stacklevel=3,
            )  # fmt: skip


def _source(error: ValidationError, path: str, overrides: list[str]) -> str:
    """Return the override that sets the wrong field, or else the file and the overrides inside the wrong section."""
    field = ".".join(str(part) for part in error.errors()[0]["loc"])
    keys = {override: override.partition("=")[0] for override in overrides}
    exact = [override for override, key in keys.items() if f"{field}.".startswith(f"{key}.")]
    inside = [override for override, key in keys.items() if key.startswith(f"{field}.")]
    return exact[-1] if exact else " with ".join([path, *inside])


def find_run_folder(word: str, overrides: list[str]) -> Path | None:
    """Return the folder of the run that ``word`` names; None if it names a recipe.

    A packaged recipe and a file come before a run of the same name in ``run.dir``.

    Raises:
        UserError: It names a folder without a run.
    """
    folder = Path(word)
    is_path = folder.name != word  # "runs/a", "./a" or "a/"
    if os.path.isfile(RECIPES / f"{word}.yaml") and not is_path:
        return None
    if os.path.isfile(folder / RUN_CONFIG):
        return folder
    if os.path.isdir(folder):
        raise UserError(f"{word}: not a run (there is no {RUN_CONFIG} in it); give the folder of a run, or a recipe")
    named = _runs_folder(overrides) / word
    return None if os.path.isfile(folder) or not os.path.isfile(named / RUN_CONFIG) else named


def _runs_folder(overrides: list[str]) -> Path:
    """Return the folder of the runs, ``run.dir``."""
    dirs = [override.partition("=")[2] for override in overrides if override.startswith("run.dir=")]
    return Path(dirs[-1] if dirs else Config().run.dir)


def _read_run(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return path and contents of the configuration in a run folder, with its name and place as they are now."""
    path, data = read_recipe(str(folder / RUN_CONFIG))
    if not data:
        raise UserError(f"{path}: empty; copy the file again, or restore it")
    resolved = folder.resolve()
    parent = folder.parent if folder.name == resolved.name else resolved.parent
    return path, data | {"run": (data.get("run") or {}) | {"dir": str(parent), "name": resolved.name}}


def read_recipe(recipe: str, runs: Path | None = None) -> tuple[str, dict[str, Any]]:
    """Return path and contents of a recipe, without empty sections.

    Args:
        recipe: Name of a file in ``recipes/``, or path of a YAML file.
        runs: Folder of the runs, whose names a message may suggest.

    Raises:
        UserError: The recipe does not exist, or is not a YAML mapping.
    """
    packaged = RECIPES / f"{recipe}.yaml"
    path = packaged if os.path.isfile(packaged) else Path(recipe)
    if not os.path.isfile(path):  # unlike Path.is_file, False if the name is too long
        raise UserError(_not_found(recipe, runs))
    data = parse_config(read_text(path, MAX_RECIPE), str(path)) or {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe must be a mapping of sections")
    return str(path), {name: section for name, section in data.items() if section is not None}


def _not_found(word: str, runs: Path | None) -> str:
    """Return the message about an unknown recipe or run: a similar name and those there are.

    For a path, these are the runs or YAML files of its folder; for a name, the packaged recipes.
    """
    path = Path(word)
    is_path, is_file = path.name != word, path.suffix in (".yaml", ".yml")  # "runs/a", "./a" or "a/"
    folder = path.parent if is_path else runs
    pattern = f"*{path.suffix}" if is_file else f"*/{RUN_CONFIG}"
    found = sorted(folder.glob(pattern)) if folder is not None and os.path.isdir(folder) else []
    there = [one.name if is_file else one.parent.name for one in found]
    recipes = [one.stem for one in RECIPES.glob("*.yaml")]
    listed = there if is_path else sorted(recipes, key=lambda name: (name != "quickstart", name))
    similar = difflib.get_close_matches(path.name, there if is_path else [*listed, *there], 1)
    guess = f"; did you mean {path.parent / similar[0] if is_path else similar[0]}?" if similar else ";"
    if is_path:
        kind = "YAML files" if is_file else "runs"
        known = f"{path.parent} has the {kind} {_some(listed)}" if listed else f"{path.parent} has no {kind}"
    else:
        known = f"there are {_some(listed)}, or give a YAML file or a run folder"
    return f"{shorten(word, 60)}: no such recipe or run{guess} {known}"


def _some(names: list[str]) -> str:
    """Return the first names, and the number of the others."""
    shown = names[:MAX_NAMES]
    while len(", ".join(shown)) > MAX_LETTERS:
        shown = shown[:-1]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _check_nesting(keys: list[str], override: str) -> None:
    """Refuse ``search.latency.runtime`` for ``search.latency_runtime``: ``search.latency`` is another key."""
    section, joined = Config.model_fields.get(keys[0]), "_".join(keys[1:])
    if len(keys) > 2 and section and joined in getattr(section.annotation, "model_fields", ()):
        raise UserError(f"{override}: no such key; did you mean {keys[0]}.{joined}?")


def _put(data: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
        if not isinstance(data, dict):
            raise UserError(f"{override}: {key} has no keys below it")
    data[keys[-1]] = value

"""Make the paths of a configuration absolute: a run folder must not depend on the working directory of its start."""

from __future__ import annotations

import os
from typing import Any

from vitas_ds.arch.published import names
from vitas_ds.config import Config

MODEL = ("hf:/", "timm:")  # prefixes of networks other than folders
PATHS = {  # the words, other than paths, that each field accepts
    "data.train": (), "data.val": (), "data.exclude": (), "engine.zero": (), "supernet.teacher.model": ("init",),
    "supernet.teacher.weights": (), "supernet.resume_from": (), "supernet.init_weights": (), "search.latency_table": (),
    "supernet.init": ("scratch",), "supernet.weights": (), "search.reuse": (), "search.checkpoint": (),
    "retrain.teacher.model": ("init",), "retrain.teacher.weights": (),
    "retrain.resume_from": (), "retrain.init_weights": (), "retrain.init": ("scratch", "supernet"),
    "retrain.spec": ("init",), "evaluate.model": ("retrain",), "export.model": ("retrain",),
}  # fmt: skip


def with_absolute_paths(config: Config) -> Config:
    """Return the configuration for a run folder: its paths are absolute, except ``run.dir``."""
    data = config.model_dump()
    for field, words in PATHS.items():
        *sections, key = field.split(".")
        section: dict[str, Any] = data
        for name in sections:
            section = section[name]
        value = section[key]
        if value and value not in words:
            section[key] = _absolute(field, value)
    return Config.model_validate(data)


def _absolute(field: str, value: str) -> str:
    """Return the value of a field with an absolute path, if it is one."""
    if field == "retrain.spec":
        run, found, choice = value.rpartition(":search:")
        if found:
            return os.path.join(os.getcwd(), run) + found + choice
        is_name = value.startswith("search:") or value in names()
    elif field == "engine.zero":  # else the name of a packaged file
        is_name = not value.endswith(".json")
    else:
        is_name = value.startswith(MODEL) or (value in names() and not os.path.isdir(value))
    return value if is_name else os.path.join(os.getcwd(), value)

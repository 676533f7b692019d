"""The typed configuration of a run. recipe.py reads it from YAML; it is validated completely before anything starts.

Each section is a class, and the description of each field is its documentation. Batch size, learning rate, clipping and
precision are set here only: the DeepSpeed JSON must not repeat them. Importing this package does not import torch.

May import: errors, arch.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from vitas_ds.arch.space import SearchSpace
from vitas_ds.config.data import RANDOM_IMAGES, Augment, Data, Mixing
from vitas_ds.config.engine import Engine, Profile
from vitas_ds.config.output import Evaluate, Export, Tracking
from vitas_ds.config.search import Check, Finalists, Search
from vitas_ds.config.section import FilePath, Section
from vitas_ds.config.training import Checkpoint, Retrain, Supernet, Teacher, Training
from vitas_ds.errors import printable

__all__ = [
    "RANDOM_IMAGES", "Augment", "Check", "Checkpoint", "Config", "Data", "Engine", "Evaluate", "Export", "Finalists",
    "Mixing", "Profile", "Retrain", "Run", "Search", "Section", "Supernet", "Teacher", "Tracking", "Training", "dump",
    "format_value", "json_schema", "validate",
]  # fmt: skip


class Run(Section):
    """Name, folder, seed and device of the run. Its folder is `dir/name/`."""

    name: str = Field(
        "default", max_length=100, pattern=r"^[A-Za-z0-9._-]*[A-Za-z0-9_-]$",
        description="name of the run and of its folder",
    )  # fmt: skip
    dir: FilePath = Field("runs", description="folder that contains all runs")
    seed: int = Field(
        0, ge=0, le=2**62, description="seed of weights, data order, augmentation, subnet sampling and search"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is a GPU, else cpu")
    timeout: float = Field(
        1800, gt=0, le=1e8, description="seconds without progress of a rank after which the job ends"
    )


class Config(BaseModel):
    """Configuration of a run, one section per topic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Run = Run()
    space: SearchSpace = SearchSpace()
    data: Data = Data()
    engine: Engine = Engine()
    checkpoint: Checkpoint = Checkpoint()
    supernet: Supernet = Supernet()
    search: Search = Search()
    retrain: Retrain = Retrain()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    tracking: Tracking = Tracking()


def validate(data: Any) -> Config:
    """Return the configuration with these values.

    Raises:
        ValidationError: A key is unknown, or a value is invalid.
    """
    try:
        return Config.model_validate(data)
    except UnicodeEncodeError:  # a message with a byte of a name that is not UTF-8, which pydantic cannot hold
        Config.model_validate(_printable(data))
        raise


def _printable(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _printable(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_printable(value) for value in data]
    return printable(data) if isinstance(data, str) else data


def dump(config: Config) -> str:
    """Return the resolved configuration as YAML. ``recipe.load`` reads it back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def json_schema() -> str:
    """Return the JSON schema of a recipe, for editors. Types, bounds and descriptions are those of the sections."""
    schema = Config.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema, indent=1) + "\n"


def format_value(value: Any) -> str:
    """Format a value as in a recipe, with short numbers."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_value(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value) or '""'

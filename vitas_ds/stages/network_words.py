"""Settings that follow from a pretrained network: sizes of the space, and the preprocessing of images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vitas_ds.arch.elastic import elastic_fields
from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, read_preprocess
from vitas_ds.recipe import load
from vitas_ds.run.compatibility import leaves
from vitas_ds.stages.model_folders import TIMM, find_model


def network_words(recipe: str, words: list[str]) -> list[str]:
    """Return ``section.key=value`` for every setting given by the network of ``supernet.init``, if it differs.

    Choices of heads and the smallest depth keep their shares of the largest ones. Settings in ``words`` stay as they
    are.

    Raises:
        UserError: The network does not exist, its weights are damaged, or it cannot be searched.
    """
    config = load(recipe, words)
    if config.supernet.init == "scratch" or not config.space.elastic.on:
        return []
    spec, preprocess = read_network(config)
    try:
        fields = elastic_fields(spec)
    except ValueError as error:
        raise UserError(f"supernet.init: {config.supernet.init}: {error}") from None
    wanted = {f"space.{name}": value for name, value in _space(config, fields).items()}
    wanted |= {f"data.{name}": getattr(preprocess, name) for name in ("resize", "mean", "std")}
    set_now = dict(leaves(config.model_dump()))
    given = {word.partition("=")[0] for word in words}
    return [
        f"{name}={json.dumps(value)}"  # all digits
        for name, value in wanted.items()
        if name not in given and set_now[name] != value
    ]


def read_network(config: Config) -> tuple[SubnetSpec, Preprocess]:
    """Return spec and preprocessing of the network of ``supernet.init``.

    Raises:
        UserError: The network does not exist, or its weights do not fit it.
    """
    init, weights = config.supernet.init, config.supernet.weights
    if not init.startswith(TIMM):
        folder = find_model(init, "supernet.init")
        return read_spec(folder / "spec.json"), read_preprocess(folder)
    if weights is None:
        raise UserError(
            f"supernet.init: {init}: give the file of its weights: weights=FILE; or download them with vitas import "
            f"--net {init} --download --out DIR, and set model=DIR"
        )
    from vitas_ds.export.from_timm import import_timm  # timm is optional

    found = import_timm(init.removeprefix(TIMM), Path(weights))
    return found.model.spec, found.preprocess


def _space(config: Config, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of ``space`` by name."""
    space, heads, depth = config.space, fields["num_heads"], fields["depth"]
    kept = {math.ceil(choice * heads / space.num_heads[-1]) for choice in space.num_heads}
    found = {name: value for name, value in fields.items() if name not in ("elastic", "num_heads")}
    found |= {"num_heads": tuple(sorted(kept)), "min_depth": max(1, round(space.min_depth * depth / space.depth))}
    return found | {f"elastic.{name}": value for name, value in fields["elastic"].items()}

"""Defects of the first release of the method, one at a time, to measure their cost. The product does not have them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from tests.benchmarks.fidelity.study import SPACE, Defect
from vitas_ds.arch import genome
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.elastic import ElasticStem
from vitas_ds.models.supernet import Supernet


class OnePosition(ElasticStem):
    """A stem that gives all tokens the position embedding of the class token."""

    def slice_weights(self, embed: Any) -> dict[str, Tensor]:
        """Return the weights of the regular stem, with positions [1, 1, D]."""
        parts = super().slice_weights(embed)
        return parts | {"pos_embed": parts["pos_embed"][:, :1]}


def give(supernet: Supernet, defect: Defect | None) -> None:
    """Add a defect to a supernet. Misplaced widths are a defect of the subnets: see ``misplaced``."""
    if defect == "position":
        for stem in supernet.stems.values():
            stem.__class__ = OnePosition
    if defect == "stem":
        for stem in list(supernet.stems.values())[1:]:
            stem.requires_grad_(False)


def scattered(spec: SubnetSpec, rng: np.random.Generator) -> SubnetSpec:
    """Place the layers of a canonical subnet at random positions. A subnet with all positions keeps them."""
    if len(spec.layers) == SPACE.depth:
        return spec
    places = np.sort(rng.choice(SPACE.depth, len(spec.layers), replace=False))
    positions = dict(zip(places.tolist(), spec.layers, strict=True))
    return replace(spec, layers=tuple(positions.get(i) for i in range(SPACE.depth)))


def misplaced(spec: SubnetSpec, rng: np.random.Generator) -> SubnetSpec:
    """Return the subnet that the first release executes: a skipped layer does not consume its width genes.

    ``scattered`` places the layers first, and skipped positions get random widths. The k-th used layer then takes the
    widths of position k.
    """
    placed = scattered(spec, rng)
    widths = [(int(rng.choice(SPACE.qkv_widths)), int(rng.choice(SPACE.mlp_widths))) for _ in range(SPACE.depth)]
    for place, layer in enumerate(placed.layers):
        if layer is not None:
            widths[place] = layer.qkv_dim, layer.mlp_dim
    taken = iter(widths)
    executed = replace(placed, layers=tuple(layer and _of_widths(layer, *next(taken)) for layer in placed.layers))
    genome.encode(SPACE, executed)  # raises unless it is a subnet of the space
    return executed


def _of_widths(layer: LayerSpec, qkv: int, mlp: int) -> LayerSpec:
    return replace(layer, qkv_dim=qkv, mlp_dim=mlp)

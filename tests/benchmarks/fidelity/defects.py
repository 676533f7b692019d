"""Defects of the method's first release, switched on one by one. They live here alone, to show what each costs."""

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
    """A stem whose tokens all have the same position embedding: the class token's."""

    def slice_weights(self, embed: Any) -> dict[str, Tensor]:
        """As the plain stem's, with positions [1, 1, D]."""
        parts = super().slice_weights(embed)
        return parts | {"pos_embed": parts["pos_embed"][:, :1]}


def give(supernet: Supernet, defect: Defect | None) -> None:
    """Put a defect into a supernet; misplaced widths are one of the nets, see ``misplaced``."""
    if defect == "position":
        for stem in supernet.stems.values():
            stem.__class__ = OnePosition
    if defect == "stem":
        for stem in list(supernet.stems.values())[1:]:
            stem.requires_grad_(False)


def scattered(spec: SubnetSpec, rng: np.random.Generator) -> SubnetSpec:
    """The layers of a canonical net at random positions of all; a net that has its positions keeps them."""
    if len(spec.layers) == SPACE.depth:
        return spec
    places = np.sort(rng.choice(SPACE.depth, len(spec.layers), replace=False))
    positions = dict(zip(places.tolist(), spec.layers, strict=True))
    return replace(spec, layers=tuple(positions.get(i) for i in range(SPACE.depth)))


def misplaced(spec: SubnetSpec, rng: np.random.Generator) -> SubnetSpec:
    """What the first release runs for a net: a skipped layer does not consume its width genes.

    The layers are those of ``scattered``, drawn first, and skipped positions carry random widths; the layer at the k-th
    used position then takes the widths of the k-th position of all.
    """
    placed = scattered(spec, rng)
    widths = [(int(rng.choice(SPACE.qkv_widths)), int(rng.choice(SPACE.mlp_widths))) for _ in range(SPACE.depth)]
    for place, layer in enumerate(placed.layers):
        if layer is not None:
            widths[place] = layer.qkv_dim, layer.mlp_dim
    taken = iter(widths)
    executed = replace(placed, layers=tuple(layer and _of_widths(layer, *next(taken)) for layer in placed.layers))
    genome.encode(SPACE, executed)  # it is a net of the space, though another one
    return executed


def _of_widths(layer: LayerSpec, qkv: int, mlp: int) -> LayerSpec:
    return replace(layer, qkv_dim=qkv, mlp_dim=mlp)

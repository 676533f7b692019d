"""Defects of the method's first release, switched on one by one. They live here alone, to show what each costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from tests.benchmarks.fidelity.study import SPACE, Defect
from vitas_ds import genome
from vitas_ds.models.elastic import ElasticStem
from vitas_ds.models.supernet import Supernet
from vitas_ds.spec import SubnetSpec


class OnePosition(ElasticStem):
    """A stem whose tokens all have the same position embedding: the class token's."""

    def cut(self, embed: Any) -> dict[str, Tensor]:
        """As the plain stem's, with positions [1, 1, D]."""
        parts = super().cut(embed)
        return parts | {"pos_embed": parts["pos_embed"][:, :1]}


def give(supernet: Supernet, defect: Defect | None) -> None:
    """Put a defect into a supernet; misplaced widths are one of the nets, see ``misplaced``."""
    if defect == "position":
        for stem in supernet.stems.values():
            stem.__class__ = OnePosition
    if defect == "stem":
        for stem in list(supernet.stems.values())[1:]:
            stem.requires_grad_(False)


def misplaced(spec: SubnetSpec, rng: np.random.Generator) -> SubnetSpec:
    """What the first release runs for a net: a skipped layer does not consume its width genes.

    The layers of a canonical net are put at random positions of a genome whose other positions are skipped and carry
    random widths; the layer at the k-th used position then takes the widths of the k-th position of all.
    """
    layers, depth = spec.active, SPACE.depth
    places = np.sort(rng.choice(depth, len(layers), replace=False)) if len(spec.layers) < depth else _places(spec)
    widths = [(int(rng.choice(SPACE.qkv_widths)), int(rng.choice(SPACE.mlp_widths))) for _ in range(depth)]
    for place, layer in zip(places, layers, strict=True):
        widths[place] = layer.qkv_dim, layer.mlp_dim
    run = [replace(layer, qkv_dim=qkv, mlp_dim=mlp) for layer, (qkv, mlp) in zip(layers, widths, strict=False)]
    positions = dict(zip(places.tolist(), run, strict=True))
    executed = replace(spec, layers=tuple(positions.get(i) for i in range(depth)))
    genome.encode(SPACE, executed)  # it is a net of the space, though another one
    return executed


def _places(spec: SubnetSpec) -> np.ndarray:
    return np.flatnonzero([layer is not None for layer in spec.layers])

"""Defects of the first release of the method, one at a time, to measure their cost. The product does not have them."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.fidelity.study import SPACE, Defect
from vitas_ds.arch import genome
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models.supernet import Stem, Supernet


def give(supernet: Supernet, defect: Defect | None) -> None:
    """Add a defect to a supernet. Misplaced widths are a defect of the subnets: see ``misplaced``."""
    stems = cast(dict[str, Stem], supernet.stems)
    if defect == "position":
        for stem in stems.values():
            _give_one_position(supernet, stem)
    if defect == "stem":
        for stem in list(stems.values())[1:]:
            stem.requires_grad_(False)


def _give_one_position(supernet: Supernet, stem: Stem) -> None:
    """Give all tokens the position embedding of the class token: it gets the gradients of all of them."""
    place = stem.places()["pos_embed"]

    def copy_first(*_: object) -> None:
        with torch.no_grad():
            place.view().copy_(place.view()[:, :1].clone())

    def add_up(grad: Tensor) -> Tensor:
        grad = grad.clone()
        positions = place.within(grad)
        total = positions.sum(1)
        positions.zero_()
        positions[:, 0] = total
        return grad

    supernet.register_forward_pre_hook(copy_first)
    stem.get_parameter("flat").register_hook(add_up)


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

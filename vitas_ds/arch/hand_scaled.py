"""The baseline of a search: the shape of DeiT, scaled by hand to a budget. Importing this module does not import torch.

DeiT (arXiv 2012.12877) has equal layers, an MLP ratio of 4 and q, k and v as wide as the embedding. Of all networks of
equal layers within the budget, the baseline is the one closest to these ratios, then the deepest one.
"""
# K shapes of one layer

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitas_ds.arch.cost import COSTS
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec

LEAST = 0.5  # smallest share of the upper limit: a smaller network would not fill the budget
HEAD_DIM, SMALL_HEAD_DIM, SMALL = 64, 16, 192  # channels of a head in DeiT, and below the width of its smallest network


@dataclass(frozen=True)
class Shape:
    """Widths of a network of equal layers."""

    embed_dim: int
    qkv_dim: int
    mlp_dim: int
    num_heads: int

    def unlike_deit(self) -> float:
        """Return the distance to DeiT's ratios, as factors of 2."""
        ratios = self.mlp_dim / self.embed_dim / 4, self.qkv_dim / self.embed_dim / 3
        return round(sum(abs(math.log2(ratio)) for ratio in ratios), 3)

    def unlike_head(self) -> float:
        """Return how far the heads are from the usual width."""
        usual = HEAD_DIM if self.embed_dim >= SMALL else SMALL_HEAD_DIM
        return abs(self.qkv_dim / 3 / self.num_heads - usual)


def hand_scaled(space: SearchSpace, budget: Mapping[str, tuple[float, float]], patch_size: int) -> SubnetSpec | None:
    """Return DeiT's shape, scaled to a budget with the widths and depths of a space.

    Args:
        space: The search space.
        budget: Smallest and largest value of costs, by name; those not in ``COSTS`` are ignored. The network costs at
            least half of the largest value.
        patch_size: Preferred patch size; others of the space are tried if no network with it is within the budget.

    Returns:
        None if no network of equal layers is within the budget, or the networks are subnets of a pretrained one.
    """
    if space.elastic.on:
        return None
    sizes = sorted(space.patch_sizes, key=lambda size: (size != patch_size, size))
    return next((spec for size in sizes if (spec := _scaled(space, budget, size))), None)


def _scaled(space: SearchSpace, budget: Mapping[str, tuple[float, float]], patch_size: int) -> SubnetSpec | None:
    choices = space.embed_widths, space.qkv_widths, space.mlp_widths, space.num_heads
    shapes = [Shape(*widths) for widths in itertools.product(*choices)]
    inside = _depths(space, budget, patch_size, shapes)  # [K, depths]
    depths = range(space.min_layers, space.depth + 1)
    found = [(shapes[k], depths[d]) for k, d in zip(*np.nonzero(inside), strict=True)]
    if not found:
        return None
    shape, depth = min(found, key=lambda pair: (pair[0].unlike_deit(), -pair[1], pair[0].unlike_head()))
    layer = LayerSpec(shape.num_heads, shape.qkv_dim, shape.mlp_dim)
    return SubnetSpec(space.image_size, patch_size, shape.embed_dim, space.num_classes, (layer,) * depth)


def _depths(
    space: SearchSpace, budget: Mapping[str, tuple[float, float]], patch_size: int, shapes: list[Shape]
) -> np.ndarray:
    """Return whether each shape [K] is within the budget at each depth. Every cost is linear in the depth."""
    depths = np.arange(space.min_layers, space.depth + 1)
    inside = np.ones((len(shapes), len(depths)), bool)
    one, two = (_table(space, patch_size, shapes, layers) for layers in (1, 2))
    for name, (low, high) in budget.items():
        if name in COSTS:
            first, second = COSTS[name](one)[:, None], COSTS[name](two)[:, None]
            values = first + (second - first) * (depths - 1)
            inside &= (values >= max(low, LEAST * high)) & (values <= high)
    return inside


def _table(space: SearchSpace, patch_size: int, shapes: list[Shape], layers: int) -> WidthTable:
    columns = [[getattr(shape, name) for shape in shapes] for name in ("num_heads", "qkv_dim", "mlp_dim")]
    heads, qkv, mlp = (np.repeat(np.array(column, np.int64)[:, None], layers, 1) for column in columns)
    embed_dim = np.array([shape.embed_dim for shape in shapes], np.int64)
    return WidthTable(
        space.image_size, space.num_classes, np.full(len(shapes), patch_size, np.int64), embed_dim, heads, qkv, mlp
    )

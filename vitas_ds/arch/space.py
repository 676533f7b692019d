"""The search space of ViTAS (arXiv 2106.13700, section 3) as data. No torch.

A *spec* (spec.py) says one network in words; a *genome* (genome.py) says the same as a row of small integers, which
is what sampling, evolution and vectorised pricing work on. ``Columns`` is the table that both turn into before they
are priced: the widths of every position of every net, as arrays.
"""
# K nets, G genes, L positions (layers and identities)

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vitas_ds.arch.spec import LayerSpec, SubnetSpec

TENTHS = tuple(round(0.1 * i, 1) for i in range(1, 11))


@dataclass(frozen=True)
class Columns:
    """Widths of K nets at L positions, ready to be priced. ``heads == 0`` marks an identity position."""

    image_size: int
    num_classes: int
    patch: np.ndarray  # [K]
    embed: np.ndarray  # [K]
    heads: np.ndarray  # [K, L]
    qkv: np.ndarray  # [K, L], 0 at an identity
    mlp: np.ndarray  # [K, L], 0 at an identity


def columns_of(specs: list[SubnetSpec]) -> Columns:
    """The table of some specs, which must share image size and classes; shorter ones are padded with identities."""
    assert len({(spec.image_size, spec.num_classes) for spec in specs}) == 1
    positions = max(len(spec.layers) for spec in specs)
    table = np.zeros((3, len(specs), positions), np.int64)
    for k, spec in enumerate(specs):
        for i, layer in enumerate(spec.layers):
            if layer is not None:
                table[:, k, i] = layer.num_heads, layer.qkv_dim, layer.mlp_dim
    patch, embed = (np.array([getattr(s, f) for s in specs], np.int64) for f in ("patch_size", "embed_dim"))
    return Columns(specs[0].image_size, specs[0].num_classes, patch, embed, *table)


class SearchSpace(BaseModel):
    """Every candidate: the ``space`` section of a recipe. Defaults are the DeiT-based 1G space of ViTAS.

    ``layout: layer`` gives each position its own heads and widths (genes: patch, embedding, then operator,
    q/k/v, MLP of each position); ``layout: cell`` makes all layers alike (genes: patch, embedding, heads, q/k/v,
    MLP, depth).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    image_size: int = Field(224, gt=0, description="side of the square input, in pixels")
    num_classes: int = Field(1000, gt=1, description="classes")
    patch_sizes: tuple[int, ...] = Field((14, 16, 32), min_length=1, description="patch sides, in pixels")
    embed_dim: int = Field(384, gt=0, description="largest width of the residual stream")
    depth: int = Field(16, gt=0, description="positions, each a layer or an identity")
    num_heads: tuple[int, ...] = Field((3, 6, 12, 16), min_length=1, description="head counts of a layer")
    qkv_dim: int = Field(1440, gt=0, description="largest width of q, k and v together")
    mlp_dim: int = Field(1440, gt=0, description="largest hidden width of the MLP")
    ratios: tuple[float, ...] = Field(TENTHS, min_length=1, description="widths, as shares of the largest")
    embed_ratios: tuple[float, ...] | None = Field(None, description="ratios of embed_dim, if they differ")
    qkv_ratios: tuple[float, ...] | None = Field(None, description="ratios of qkv_dim, if they differ")
    mlp_ratios: tuple[float, ...] | None = Field(None, description="ratios of mlp_dim, if they differ")
    identity: bool = Field(True, description="positions may be skipped, so that depth is searched")
    min_depth: int = Field(1, gt=0, description="fewest layers of a net (where identity is on)")
    identity_shift: bool = Field(False, description="sample canonical nets only: identities at the deep end")
    layout: Literal["layer", "cell"] = Field("layer", description="cell: all layers of a net are alike")

    @model_validator(mode="after")
    def _check(self) -> SearchSpace:
        for name in ("patch_sizes", "num_heads", "ratios", "embed_ratios", "qkv_ratios", "mlp_ratios"):
            values = getattr(self, name)
            if values is not None and (list(values) != sorted(set(values)) or not values or values[0] <= 0):
                raise ValueError(f"{name} must rise, without repeats, from above 0 (given: {list(values)})")
            if values is not None and "ratios" in name and values[-1] != 1.0:
                raise ValueError(f"{name} must end with 1.0, the full width (given: {list(values)})")
        for patch in self.patch_sizes:
            if self.image_size % patch:
                raise ValueError(f"patch_sizes: {patch} does not divide image_size {self.image_size}")
        for name in ("embed", "qkv", "mlp"):
            widths = getattr(self, f"{name}_widths")
            if len(set(widths)) != len(widths) or widths[0] < 1:
                raise ValueError(f"{name}_dim {widths[-1]} is too small for its ratios: widths {list(widths)}")
        for width in self.qkv_widths:
            for heads in self.num_heads:
                if width % (3 * heads):
                    raise ValueError(f"qkv_dim: width {width} is not a multiple of 3 * {heads} heads")
        if self.min_depth > self.depth:
            raise ValueError(f"min_depth {self.min_depth} is above depth {self.depth}")
        return self

    @cached_property
    def embed_widths(self) -> tuple[int, ...]:
        """Every embedding width, ascending."""
        return tuple(round(self.embed_dim * r) for r in self.embed_ratios or self.ratios)

    @cached_property
    def qkv_widths(self) -> tuple[int, ...]:
        """Every width of q, k and v together, ascending."""
        return tuple(round(self.qkv_dim * r) for r in self.qkv_ratios or self.ratios)

    @cached_property
    def mlp_widths(self) -> tuple[int, ...]:
        """Every MLP width, ascending."""
        return tuple(round(self.mlp_dim * r) for r in self.mlp_ratios or self.ratios)

    @cached_property
    def attn_widths(self) -> tuple[int, ...]:
        """Every width of q (= of k = of v), ascending."""
        return tuple(width // 3 for width in self.qkv_widths)

    @property
    def fewest_layers(self) -> int:
        """Layers of the shallowest net."""
        return self.min_depth if self.identity else self.depth

    @cached_property
    def gene_sizes(self) -> np.ndarray:
        """[G] number of values of each gene; a gene's values are ``range(size)``."""
        first = [len(self.patch_sizes), len(self.embed_widths)]
        layer = [len(self.num_heads), len(self.qkv_widths), len(self.mlp_widths)]
        if self.layout == "cell":
            return np.array(first + layer + [self.depth - self.fewest_layers + 1])
        layer[0] += self.identity
        return np.array(first + layer * self.depth)

    @cached_property
    def layer_choices(self) -> np.ndarray:
        """Objects [heads + 1, qkv, mlp]: the layer of each choice; None, the identity, at the last head index."""
        table = np.full((len(self.num_heads) + 1, len(self.qkv_widths), len(self.mlp_widths)), None)
        for layer, index in self.layer_genes.items():
            table[index] = layer
        return table

    @cached_property
    def layer_genes(self) -> dict[LayerSpec | None, tuple[int, ...]]:
        """The indices of each layer in ``layer_choices``; identity has the first of its own."""
        widths = (self.num_heads, self.qkv_widths, self.mlp_widths)
        genes: dict[LayerSpec | None, tuple[int, ...]] = {None: (len(self.num_heads), 0, 0)}
        choices = (list(enumerate(some)) for some in widths)
        for (head, heads), (qkv, qkv_dim), (mlp, mlp_dim) in itertools.product(*choices):
            genes[LayerSpec(heads, qkv_dim, mlp_dim)] = head, qkv, mlp
        return genes

    @cached_property
    def layer_numbers(self) -> dict[LayerSpec | None, int]:
        """The row of each layer in ``layer_indices``; identity's is 0."""
        return {layer: row for row, layer in enumerate(self.layer_genes)}

    @cached_property
    def layer_indices(self) -> np.ndarray:
        """[layers, 3] the values of ``layer_genes``."""
        return np.array([*self.layer_genes.values()])

"""The search space of ViTAS (arXiv 2106.13700, section 3) as data.

A *spec* (spec.py) describes one network. A *genome* (genome.py) encodes the same network as a row of small integers,
the form that sampling and evolution use. Both convert to a ``WidthTable``, the arrays from which ``cost`` computes the
costs of many networks at once. Importing this module does not import torch.
"""
# K networks, G genes, L positions (layers and identities)

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vitas_ds.arch.elastic import Elastic
from vitas_ds.arch.spec import MAX_CLASSES, MAX_DEPTH, MAX_IMAGE, MAX_WIDTH, LayerSpec, SubnetSpec, check_costs

DEFAULT_RATIOS = tuple(round(0.1 * i, 1) for i in range(1, 11))


@dataclass(frozen=True)
class WidthTable:
    """Widths of K networks at L positions. ``num_heads == 0`` marks an identity position."""

    image_size: int
    num_classes: int
    patch_size: np.ndarray  # [K]
    embed_dim: np.ndarray  # [K]
    num_heads: np.ndarray  # [K, L]
    qkv_dim: np.ndarray  # [K, L], 0 at an identity
    mlp_dim: np.ndarray  # [K, L], 0 at an identity
    _: KW_ONLY
    prefix_tokens: int = 1
    classifiers: int = 1
    layer_scale: bool = False

    @property
    def num_tokens(self) -> np.ndarray:
        """Number of tokens [K]."""
        return (self.image_size // self.patch_size) ** 2 + self.prefix_tokens

    @classmethod
    def from_specs(cls, specs: Sequence[SubnetSpec]) -> WidthTable:
        """Build the table of specs with equal image size and classes. Shorter specs are padded with identities."""
        shared = ("image_size", "num_classes", "prefix_tokens", "classifiers", "layer_scale")
        first = specs[0]
        assert all(getattr(spec, name) == getattr(first, name) for spec in specs for name in shared)
        positions = max(len(spec.layers) for spec in specs)
        layers_3KL = np.zeros((3, len(specs), positions), np.int64)
        for k, spec in enumerate(specs):
            for i, layer in enumerate(spec.layers):
                if layer is not None:
                    layers_3KL[:, k, i] = layer.num_heads, layer.qkv_dim, layer.mlp_dim
        patch_size = np.array([spec.patch_size for spec in specs], np.int64)
        embed_dim = np.array([spec.embed_dim for spec in specs], np.int64)
        return cls(
            first.image_size, first.num_classes, patch_size, embed_dim, *layers_3KL,
            prefix_tokens=first.prefix_tokens, classifiers=first.classifiers, layer_scale=first.layer_scale,
        )  # fmt: skip


class SearchSpace(BaseModel):
    """The set of all candidate networks. The defaults are the DeiT-based 1G space of ViTAS.

    With ``layout: layer``, each position has its own heads and widths. Genes: patch size, embed_dim, then operator,
    q/k/v width and MLP width of each position. With ``layout: cell``, all layers are equal. Genes: patch size,
    embed_dim, heads, q/k/v width, MLP width, depth.

    With ``elastic``, the networks are subnets of a pretrained one: heads have fixed channels, the gene of the q/k/v
    width is the share of them that each head keeps, and the depth determines which positions are identities.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    image_size: int = Field(224, gt=0, le=MAX_IMAGE, description="height and width of the input, in pixels")
    num_classes: int = Field(1000, gt=1, le=MAX_CLASSES, description="number of classes")
    patch_sizes: tuple[int, ...] = Field(
        (14, 16, 32), min_length=1, max_length=100, description="choices of the patch size, in pixels"
    )
    embed_dim: int = Field(384, gt=0, le=MAX_WIDTH, description="largest embed_dim")
    depth: int = Field(16, gt=0, le=MAX_DEPTH, description="number of positions; each holds a layer or an identity")
    num_heads: tuple[int, ...] = Field(
        (3, 6, 12, 16), min_length=1, max_length=100, description="choices of num_heads of a layer"
    )
    qkv_dim: int = Field(1440, gt=0, le=MAX_WIDTH, description="largest total width of q, k and v")
    mlp_dim: int = Field(1440, gt=0, le=MAX_WIDTH, description="largest hidden width of the MLP")
    ratios: tuple[float, ...] = Field(
        DEFAULT_RATIOS,
        min_length=1,
        max_length=100,
        description="choices of a width, as fractions of the largest",
    )
    embed_ratios: tuple[float, ...] | None = Field(
        None, max_length=100, description="ratios of embed_dim; null: ratios"
    )
    qkv_ratios: tuple[float, ...] | None = Field(None, max_length=100, description="ratios of qkv_dim; null: ratios")
    mlp_ratios: tuple[float, ...] | None = Field(None, max_length=100, description="ratios of mlp_dim; null: ratios")
    identity: bool = Field(True, description="search the depth: a position may be an identity")
    min_depth: int = Field(1, gt=0, le=MAX_DEPTH, description="smallest number of layers (if identity is true)")
    identity_shift: bool = Field(False, description="sample canonical networks only: all identities at the end")
    layout: Literal["layer", "cell"] = Field("layer", description="cell: all layers of a network are equal")
    elastic: Elastic = Elastic()

    @model_validator(mode="after")
    def _check_choices(self) -> SearchSpace:
        """Check each list of choices on its own."""
        for name in ("patch_sizes", "num_heads", "ratios", "embed_ratios", "qkv_ratios", "mlp_ratios"):
            values = getattr(self, name)
            if values is None:
                continue
            if list(values) != sorted(set(values)) or not values or values[0] <= 0:
                raise ValueError(f"{name} must be positive and strictly increasing (given: {list(values)})")
            if "ratios" in name and values[-1] != 1.0:
                raise ValueError(f"{name} must end with 1.0, the full width (given: {list(values)})")
        return self

    @model_validator(mode="after")
    def _check_widths(self) -> SearchSpace:
        """Check that every combination of choices describes a valid network."""
        for patch_size in self.patch_sizes:
            if self.image_size % patch_size:
                raise ValueError(f"patch_sizes: {patch_size} does not divide image_size {self.image_size}")
        head_dim = self.elastic.head_dim
        scaled = (
            ("embed_dim", self.embed_dim, self.embed_ratios), ("mlp_dim", self.mlp_dim, self.mlp_ratios),
            ("qkv_dim", self.qkv_dim, self.qkv_ratios) if head_dim is None else
            ("elastic.head_dim", head_dim, self.qkv_ratios),
        )  # fmt: skip
        for name, full, ratios in scaled:
            widths = _scaled(full, ratios or self.ratios)
            if len(set(widths)) != len(widths) or widths[0] < 1:
                raise ValueError(f"{name} {widths[-1]} is too small for its ratios: widths {list(widths)}")
        for width, heads in itertools.product(self.qkv_widths, self.num_heads) if head_dim is None else ():
            if width % (3 * heads):
                raise ValueError(f"qkv_dim: width {width} is not a multiple of 3 * {heads} heads")
        check_costs(self.image_size // self.patch_sizes[0], self.embed_dim, self.num_classes,
                    [(self.qkv_dim, self.mlp_dim)] * self.depth)  # fmt: skip
        if self.min_depth > self.depth:
            raise ValueError(f"min_depth {self.min_depth} is greater than depth {self.depth}")
        return self

    @model_validator(mode="after")
    def _check_elastic(self) -> SearchSpace:
        """Check that the largest network has the heads of the pretrained one."""
        head_dim = self.elastic.head_dim
        if head_dim is None:
            return self
        if self.layout == "cell" or len(self.patch_sizes) > 1:
            raise ValueError("elastic: a pretrained network has one patch size, and the layout must be layer")
        if self.qkv_dim != 3 * self.num_heads[-1] * head_dim:
            raise ValueError(
                f"qkv_dim: {self.qkv_dim} is not 3 * {self.num_heads[-1]} heads * elastic.head_dim {head_dim}, which "
                "the pretrained network has"
            )
        self.elastic.check_order(self.depth, self.min_layers)
        return self

    @property
    def nested(self) -> bool:
        """Whether the positions of identities follow from the depth in every genome."""
        return self.identity_shift or self.elastic.on

    @cached_property
    def embed_widths(self) -> tuple[int, ...]:
        """Choices of embed_dim, ascending."""
        return _scaled(self.embed_dim, self.embed_ratios or self.ratios)

    @cached_property
    def qkv_widths(self) -> tuple[int, ...]:
        """Possible total widths of q, k and v, ascending."""
        if self.elastic.on:
            return tuple(sorted({3 * width for width in self.attn_table[:-1].ravel().tolist()}))
        return _scaled(self.qkv_dim, self.qkv_ratios or self.ratios)

    @cached_property
    def mlp_widths(self) -> tuple[int, ...]:
        """Choices of the MLP width, ascending."""
        return _scaled(self.mlp_dim, self.mlp_ratios or self.ratios)

    @cached_property
    def attn_widths(self) -> tuple[int, ...]:
        """Choices of the width of q (equal to that of k and v), ascending."""
        return tuple(width // 3 for width in self.qkv_widths)

    @cached_property
    def attn_table(self) -> np.ndarray:
        """Width of q [heads + 1, q/k/v] by the genes of heads and q/k/v width; the last row, of identities, is 0."""
        head_dim = self.elastic.head_dim
        if head_dim is None:
            return np.array([self.attn_widths] * len(self.num_heads) + [(0,) * len(self.attn_widths)])
        return np.outer((*self.num_heads, 0), _scaled(head_dim, self.qkv_ratios or self.ratios))

    @cached_property
    def active_positions(self) -> np.ndarray:
        """Positions that hold a layer in a canonical genome, bool [L + 1, L]; row k: networks with k layers."""
        return self.elastic.active_positions(self.depth)

    def positions(self, layers: Sequence[LayerSpec | None]) -> tuple[LayerSpec | None, ...]:
        """Return the layer at each position of a network, or None. ``layers`` may contain identities."""
        active = tuple(layer for layer in layers if layer is not None)
        if len(active) > self.depth:
            return active
        if not self.elastic.on:
            return tuple(layers) if len(layers) <= self.depth else active
        remaining = iter(active)
        return tuple(next(remaining) if is_active else None for is_active in self.active_positions[len(active)])

    @property
    def min_layers(self) -> int:
        """Number of layers of the shallowest network."""
        return self.min_depth if self.identity else self.depth

    @cached_property
    def gene_sizes(self) -> np.ndarray:
        """Number of values of each gene [G]; a gene takes the values ``range(size)``."""
        stem = [len(self.patch_sizes), len(self.embed_widths)]
        layer = [len(self.num_heads), self.attn_table.shape[1], len(self.mlp_widths)]
        if self.layout == "cell":
            return np.array(stem + layer + [self.depth - self.min_layers + 1])
        layer[0] += self.identity
        return np.array(stem + layer * self.depth)

    @cached_property
    def layer_choices(self) -> np.ndarray:
        """Object array [heads + 1, qkv, mlp] of ``LayerSpec``; the last head index holds None, the identity."""
        choices = np.full((*self.attn_table.shape, len(self.mlp_widths)), None)
        for layer, genes in self.layer_genes.items():
            choices[genes] = layer
        return choices

    @cached_property
    def layer_genes(self) -> dict[LayerSpec | None, tuple[int, ...]]:
        """Genes (operator, q/k/v width, MLP width) of each layer; None is the identity."""
        genes: dict[LayerSpec | None, tuple[int, ...]] = {None: (len(self.num_heads), 0, 0)}
        for head, num_heads in enumerate(self.num_heads):
            for qkv, attn_dim in enumerate(self.attn_table[head].tolist()):
                scale = self.elastic.scale(attn_dim // num_heads) if self.elastic.on else None
                for mlp, mlp_dim in enumerate(self.mlp_widths):
                    genes[LayerSpec(num_heads, 3 * attn_dim, mlp_dim, scale)] = head, qkv, mlp
        return genes

    @cached_property
    def layer_ids(self) -> dict[LayerSpec | None, int]:
        """Row of each layer in ``layer_gene_table``; the identity is row 0."""
        return {layer: row for row, layer in enumerate(self.layer_genes)}

    @cached_property
    def layer_gene_table(self) -> np.ndarray:
        """Values of ``layer_genes`` as an array [layers, 3]."""
        return np.array([*self.layer_genes.values()])


def _scaled(full: int, ratios: Sequence[float]) -> tuple[int, ...]:
    return tuple(round(full * ratio) for ratio in ratios)

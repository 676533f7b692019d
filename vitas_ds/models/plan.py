"""Plans of a pack: which rectangles of the stored parameters make up the packed tensors of a network.

A plan consists of parts: the stem, one for each layer, the head. A part has *sources* (parameters) and *tensors* (the
packed slices [S, ...] of all sides, named as in ``VisionTransformer``). A row of ``regions`` copies one rectangle.
Widths are padded with zeros to a multiple; q, k and v are padded per head. Nothing here needs torch.
"""
# S sides, D embed_dim, a = h * d = qkv_dim / 3, h num_heads, d head_dim, N tokens, p patch_size

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from vitas_ds.models.channels import Side, Slices, channel_slices

COLUMNS = (
    "source", "source_offset", "source_stride", "tensor", "tensor_offset", "tensor_stride", "rows", "columns",
    "row_period", "row_gap", "row_phase", "column_period", "column_gap", "column_phase",
)  # fmt: skip
WHOLE = 2**30  # period of an axis without padded heads
CLASSIFIERS = "head", "head_dist"  # of the first and of the second token


class Run(NamedTuple):
    """Channel i of the run is at ``source + i``, and packed at ``target + i + (i + phase) // period * gap``."""

    source: int
    length: int
    target: int
    period: int
    gap: int
    phase: int


class Axis(NamedTuple):
    """One dimension of a packed tensor: its padded size, and the runs of each side."""

    size: int
    sides: tuple[tuple[Run, ...], ...]


def padded(width: int, multiple: int) -> int:
    """Return the width rounded up to a multiple."""
    return -(-width // multiple) * multiple


@lru_cache(maxsize=65536)
def axis(
    sides: tuple[Side, ...], width: int, widths: tuple[int, ...], head_dim: int, multiple: int, centered: bool = False
) -> Axis:
    """Return the axis of a width on each side, padded to a multiple.

    Args:
        sides: Sides of the sharing rule.
        width: Channels used, one of ``widths``.
        widths: All choices of the width.
        head_dim: Pad every group of this many channels instead of the whole axis; 0: no heads.
        multiple: The padded size is a multiple of this.
        centered: See ``channel_slices``.
    """
    period, size = (head_dim, padded(head_dim, multiple)) if head_dim else (WHOLE, 0)
    gap = size - period if head_dim else 0
    runs = tuple(_runs(channel_slices(side, width, widths, centered), period, gap) for side in sides)
    return Axis(width // head_dim * size if head_dim else padded(width, multiple), runs)


@lru_cache(maxsize=65536)
def head_axis(
    sides: tuple[Side, ...], num_heads: int, head_counts: tuple[int, ...], kept: int, head_dim: int, multiple: int,
    centered: bool = False,
) -> Axis:  # fmt: skip
    """Return the axis of q of whole or narrower heads of a pretrained network: the first channels of some heads.

    Args:
        sides: Sides of the sharing rule.
        num_heads: Heads used, one of ``head_counts``.
        head_counts: All choices.
        kept: Channels used of each head.
        head_dim: Channels of a head.
        multiple: The padded size of a head is a multiple of this.
        centered: See ``channel_slices``.
    """
    size = padded(kept, multiple)
    runs = []
    for side in sides:
        found = channel_slices(side, num_heads, head_counts, centered)
        if kept == head_dim:
            slices = tuple(slice(s.start * kept, s.stop * kept) for s in found)
        else:
            heads = (head for s in found for head in range(s.start, s.stop))
            slices = tuple(slice(head * head_dim, head * head_dim + kept) for head in heads)
        runs.append(_runs(slices, kept, size - kept))
    return Axis(num_heads * size, tuple(runs))


def whole_axis(length: int, sides: int, multiple: int = 1) -> Axis:
    """Return an axis with all channels on each side."""
    return Axis(padded(length, multiple), (_runs((slice(0, length),), WHOLE, 0),) * sides)


def _runs(slices: Slices, period: int, gap: int) -> tuple[Run, ...]:
    runs, done = [], 0
    for part in slices:
        length, phase = part.stop - part.start, done % period
        runs.append(Run(part.start, length, done + done // period * gap, period, gap, phase))
        done += length
    return tuple(runs)


class Source(NamedTuple):
    """A matrix or vector within a parameter of the part: index of the parameter, first element, row stride."""

    parameter: int
    offset: int
    stride: int

    @classmethod
    def of(cls, parameter: int, offset: int, shape: Sequence[int]) -> Source:
        """Return the source of a tensor. The rows of a convolution [D, 3, p, p] are D, those of [1, N, D] are N."""
        return cls(parameter, offset, math.prod(shape[1:]) if len(shape) == 4 else shape[-1])


@dataclass(eq=False)  # hashable, by identity
class Part:
    """The packed tensors of a module.

    Attributes:
        shapes: Shape of each packed tensor, by name.
        regions: Rows of ``COLUMNS``.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    regions: list[tuple[int, ...]] = field(default_factory=list)

    def matrix(self, name: str, sources: Sequence[Source], rows: Axis, columns: Axis) -> None:
        """Add a packed matrix [S, out, in]: the rows of several sources, one after the other."""
        self.shapes[name] = (len(rows.sides), len(sources) * rows.size, columns.size)
        self._add(sources, rows, columns)

    def vector(self, name: str, sources: Sequence[Source], columns: Axis) -> None:
        """Add a packed vector [S, out]: several sources, one after the other."""
        self.shapes[name] = (len(columns.sides), len(sources) * columns.size)
        for i, source in enumerate(sources):
            one_row = Axis(1, ((Run(0, 1, 0, WHOLE, 0, 0),),) * len(columns.sides))
            self._add([source], one_row, columns, i * columns.size)

    def _add(self, sources: Sequence[Source], rows: Axis, columns: Axis, first: int = 0) -> None:
        tensor, shape = len(self.shapes) - 1, next(reversed(self.shapes.values()))
        side_size = math.prod(shape[1:])
        for side, (row_runs, column_runs) in enumerate(zip(rows.sides, columns.sides, strict=True)):
            for i, source in enumerate(sources):
                start = side * side_size + first + i * rows.size * columns.size
                for r in row_runs:
                    for c in column_runs:
                        self.regions.append((
                            source.parameter, source.offset + r.source * source.stride + c.source, source.stride,
                            tensor, start + r.target * columns.size + c.target, columns.size, r.length, c.length,
                            *r[3:], *c[3:],
                        ))  # fmt: skip

    @cached_property
    def is_padded(self) -> bool:
        """Whether the regions leave elements of the packed tensors at zero."""
        return sum(math.prod(shape) for shape in self.shapes.values()) > sum(r[6] * r[7] for r in self.regions)

    @cached_property
    def table(self) -> np.ndarray:
        """The regions as an int64 array [regions, columns]."""
        return np.array(self.regions, np.int64).reshape(-1, len(COLUMNS))

    @cached_property
    def split_table(self) -> np.ndarray:
        """``table`` for tensors of one side each: tensor k of the part becomes the tensors k * S to (k + 1) * S - 1."""
        table = self.table.copy()
        sides, sizes = zip(*((shape[0], math.prod(shape[1:])) for shape in self.shapes.values()), strict=True)
        tensor, offset = table[:, COLUMNS.index("tensor")], table[:, COLUMNS.index("tensor_offset")]
        side, table[:, COLUMNS.index("tensor_offset")] = np.divmod(offset, np.array(sizes)[tensor])
        table[:, COLUMNS.index("tensor")] = tensor * sides[0] + side
        return table


def stem_part(
    sources: dict[str, Source], embed: Axis, patch_size: int, tokens: int, multiple: int, prefix_tokens: int = 1
) -> Part:
    """Return the part of the patch embedding, prefix tokens and position embedding."""
    part, sides = Part(), len(embed.sides)
    part.matrix("weight", [sources["weight"]], embed, whole_axis(3 * patch_size**2, sides, multiple))
    part.vector("bias", [sources["bias"]], embed)
    part.matrix("cls_token", [sources["cls_token"]], whole_axis(prefix_tokens, sides), embed)
    part.matrix("pos_embed", [sources["pos_embed"]], whole_axis(tokens, sides), embed)
    return part


def layer_part(sources: dict[str, Source], embed: Axis, attn: Axis, mlp: Axis, class_token_only: bool) -> Part:
    """Return the part of a transformer block.

    Args:
        sources: Source of each tensor, with q, k and v as ``attn.q_weight`` and so on.
        embed: Axis of embed_dim.
        attn: Axis of q, with its heads.
        mlp: Axis of the hidden width.
        class_token_only: Pack q by itself: the last layer computes it for the class token only.
    """
    part = Part()
    for joint in ("q", "kv") if class_token_only else ("qkv",):
        part.matrix(f"attn.{joint}.weight", [sources[f"attn.{x}_weight"] for x in joint], attn, embed)
        part.vector(f"attn.{joint}.bias", [sources[f"attn.{x}_bias"] for x in joint], attn)
    for name, rows, columns in (("attn.proj", embed, attn), ("mlp.fc1", mlp, embed), ("mlp.fc2", embed, mlp)):
        part.matrix(f"{name}.weight", [sources[f"{name}.weight"]], rows, columns)
        part.vector(f"{name}.bias", [sources[f"{name}.bias"]], rows)
    for name in ("ls1.gamma", "ls2.gamma"):
        if name in sources:
            part.vector(name, [sources[name]], embed)
    _add_norms(part, sources, embed, "norm1", "norm2")
    return part


def head_part(sources: dict[str, Source], embed: Axis, num_classes: int, multiple: int) -> Part:
    """Return the part of the final norm and the classifiers."""
    part, classes = Part(), whole_axis(num_classes, len(embed.sides), multiple)
    for name in CLASSIFIERS:
        if f"{name}.weight" in sources:
            part.matrix(f"{name}.weight", [sources[f"{name}.weight"]], classes, embed)
            part.vector(f"{name}.bias", [sources[f"{name}.bias"]], classes)
    _add_norms(part, sources, embed, "norm")
    return part


def _add_norms(part: Part, sources: dict[str, Source], embed: Axis, *names: str) -> None:
    for name in names:
        for kind in ("weight", "bias"):
            part.vector(f"{name}.{kind}", [sources[f"{name}.{kind}"]], embed)

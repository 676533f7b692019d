"""Open the choices of a space one after the other: a pretrained network is first trained with subnets close to it.

Heads, q/k/v width, MLP width and depth start with their two largest choices. Further ones open evenly over the first
part of the phase. Then those of embed_dim open, which change every layer. Importing this module does not import torch.
"""

from __future__ import annotations

from typing import NamedTuple

from vitas_ds.arch.space import SearchSpace

BEFORE_EMBED = 0.75  # of the phase


class Open(NamedTuple):
    """Number of open choices of each kind, the largest ones."""

    heads: int
    qkv: int
    mlp: int
    depth: int
    embed: int


def all_choices(space: SearchSpace) -> Open:
    """Return the number of choices of a space."""
    depths = space.depth - space.min_layers + 1
    return Open(
        len(space.num_heads), space.attn_table.shape[1], len(space.mlp_widths), depths, len(space.embed_widths)
    )  # fmt: skip


def open_choices(space: SearchSpace, share: float) -> Open:
    """Return the open choices after a share of the phase, from 0 to 1."""
    sizes, early = all_choices(space), min(share / BEFORE_EMBED, 1)
    late = (share - BEFORE_EMBED) / (1 - BEFORE_EMBED)
    return Open(
        _count(sizes.heads, early), _count(sizes.qkv, early), _count(sizes.mlp, early), _count(sizes.depth, early),
        1 if late < 0 else _count(sizes.embed, late),
    )  # fmt: skip


def _count(size: int, share: float) -> int:
    return min(size, 2 + int(share * (size - 1)))


def narrowed(space: SearchSpace, choices: Open) -> SearchSpace:
    """Return the space with the largest choices of each kind only."""
    fields = space.model_dump()
    for name, count in (("qkv", choices.qkv), ("mlp", choices.mlp), ("embed", choices.embed)):
        fields[f"{name}_ratios"] = (fields[f"{name}_ratios"] or space.ratios)[-count:]
    fields |= {"num_heads": space.num_heads[-choices.heads :], "min_depth": space.depth - choices.depth + 1}
    return SearchSpace(**fields)

"""Which weights of a vision transformer are fine-tuned, and how fast: frozen layers, learning rates per layer.

The parts of a network are numbered from the input: 0 is the stem, then the layers, the last part is the classifier. The
last norm belongs to the last layer, as in timm.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vitas_ds.errors import UserError
from vitas_ds.models.transfer import is_head


def part_of(name: str, depth: int) -> int:
    """Return the part of a named tensor, from 0 (stem) to ``depth + 1`` (classifier)."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    if name.startswith("norm."):
        return depth
    return depth + 1 if is_head(name) else 0


def lr_scales(
    names: Iterable[str], depth: int, decay: float, pool: Literal["class", "patches"] = "class"
) -> dict[str, float]:
    """Return the factor of the learning rate of each tensor: ``decay`` per part below the classifier.

    As in BEiT (arXiv 2106.08254) and timm: a norm after average pooling belongs to the classifier. Empty if all are 1.
    """
    if decay == 1:
        return {}
    parts = {name: part_of(name, depth) for name in names}
    if pool == "patches":
        parts |= {name: depth + 1 for name in parts if name.startswith("norm.")}
    return {name: decay ** (depth + 1 - part) for name, part in parts.items()}


def frozen_names(names: Iterable[str], depth: int, freeze: int | Literal["backbone"]) -> frozenset[str]:
    """Return the tensors that ``retrain.freeze`` leaves unchanged.

    Raises:
        UserError: ``freeze`` is larger than the number of layers.
    """
    if freeze == "backbone":
        return frozenset(name for name in names if part_of(name, depth) <= depth)
    if freeze > depth:
        raise UserError(
            f"retrain.freeze: {freeze}, but the network has {depth} layers; use {depth} or less, or backbone"
        )
    last_norm = ("norm.weight", "norm.bias")  # belongs to no layer
    return frozenset(name for name in names if freeze and part_of(name, depth) <= freeze and name not in last_norm)

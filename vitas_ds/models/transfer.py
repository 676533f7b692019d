"""Fit the weights of a trained network to another image size and to other classes."""
# P prefix tokens, n patches of a square image, D embed_dim

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from vitas_ds.models.positions import resize_positions
from vitas_ds.models.shapes import Shapes

POSITIONS = "pos_embed"


def is_head(name: str) -> bool:
    """Return whether a tensor belongs to a classifier."""
    return name.startswith("head")


def shapes_after_transfer(found: Shapes, expected: Shapes, new_head: bool, prefix: int = 1) -> Shapes:
    """Return the shapes that ``transfer`` would give to the tensors of a file."""
    shapes = dict(found)
    if new_head:
        shapes = {name: shape for name, shape in shapes.items() if not is_head(name)}
        shapes |= {name: shape for name, shape in expected.items() if is_head(name)}
    before, after = found.get(POSITIONS, ()), expected[POSITIONS]
    if len(before) == 3 and before[::2] == after[::2] and _is_square(before[1] - prefix):
        shapes[POSITIONS] = after
    return shapes


def transfer(
    weights: Mapping[str, Tensor], initial: Mapping[str, Tensor], new_head: bool, prefix: int = 1
) -> dict[str, Tensor]:
    """Return the weights for a network with other classes or another image size.

    Args:
        weights: Weights of the trained network.
        initial: Initial weights of the new network: its shapes, and its head.
        new_head: Take the classifiers of ``initial``.
        prefix: Tokens before the patches.
    """
    patches = initial[POSITIONS].shape[1] - prefix
    fitted = dict(weights) | {POSITIONS: resize_positions(weights[POSITIONS], patches, prefix)}
    if new_head:
        fitted = {name: value for name, value in fitted.items() if not is_head(name)}
        fitted |= {name: value for name, value in initial.items() if is_head(name)}
    return fitted


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number

"""Position embeddings for another image size."""
# P prefix tokens, n patches of a square image, D embed_dim

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resize_positions(positions: Tensor, patches: int, prefix_tokens: int = 1) -> Tensor:
    """Interpolate the position embedding of a square image: bicubic with antialias, in float32.

    Args:
        positions: Position embedding [1, P + n, D].
        patches: Number of patches of the new image, a square.
        prefix_tokens: P; their positions do not change.
    """
    prefix, grid = positions[:, :prefix_tokens], positions[:, prefix_tokens:]
    old, new = math.isqrt(grid.shape[1]), math.isqrt(patches)
    if old == new:
        return positions
    image = grid.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    image = interpolate(image, (new, new), mode="bicubic", antialias=True)
    return torch.cat([prefix, image.flatten(2).mT.to(grid.dtype)], 1)

"""Two random views of an image, for a loss without labels."""
# H and W height and width in pixels

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MIN_AREA = 0.5  # of a view, as a fraction of the image


def two_views(image: Tensor, seed: int) -> Tensor:
    """Return two random crops of an image, resized to its size and flipped with probability 0.5.

    Args:
        image: A square image [3, H, W].
        seed: The views are a function of image and seed.

    Returns:
        The views [2, 3, H, W].
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([_view(image, torch.rand(4, generator=generator).tolist()) for _ in range(2)])


def _view(image: Tensor, draw: list[float]) -> Tensor:
    size = image.shape[-1]
    side = max(1, round(size * math.sqrt(MIN_AREA + (1 - MIN_AREA) * draw[0])))
    top, left = (int(x * (size - side + 1)) for x in draw[1:3])
    crop = image[:, top : top + side, left : left + side]
    view = interpolate(crop[None], (size, size), mode="bicubic", antialias=True)[0]
    return view.flip(-1) if draw[3] < 0.5 else view

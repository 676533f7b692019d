"""Normalization of uint8 pixels with torch, bitwise equal to that of the DALI graph."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

Channels = tuple[float, float, float]


def normalize_pixels(pixels: Tensor, mean: Channels, std: Channels) -> Tensor:
    """Return ``(x / 255 - mean) / std`` per channel, float32, for uint8 pixels [..., 3, H, W]."""
    shift, scale = _constants(mean, std, pixels.device)
    return (pixels.float() - shift) * scale


def normalize_into(out: Tensor, pixels: Tensor, mean: Channels, std: Channels) -> None:
    """Write ``normalize_pixels(pixels, mean, std)`` to ``out``."""
    shift, scale = _constants(mean, std, pixels.device)
    out.copy_(pixels).sub_(shift).mul_(scale)


@lru_cache(maxsize=8)
def _constants(mean: Channels, std: Channels, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return 255 * mean and 1 / (255 * std), each [3, 1, 1]. To copy them for each batch would wait for a GPU."""
    with torch.inference_mode(False):
        shifts, divisors = (torch.tensor([255 * x for x in values], device=device) for values in (mean, std))
        return shifts.view(3, 1, 1), (1 / divisors).view(3, 1, 1)

"""Mixup, CutMix and label smoothing of a batch: a pure function of (seed, step, rank).

Each image is mixed with the one before it in the batch, the whole batch by one share, as torchvision v2 does.
"""
# B batch, C classes

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitas_ds.config import Mixing

MIXING = 0x313  # tag of the random stream


def mix(
    images: Tensor, labels: Tensor, mixing: Mixing, num_classes: int, seed: int, step: int, rank: int
) -> tuple[Tensor, Tensor]:
    """Mixed images [B, 3, H, W] and their soft targets [B, C] float32; the given tensors are left as they are.

    With both on, a batch has CutMix with probability ``switch_prob``, else Mixup. Labels are smoothed:
    ``1 - s + s / C`` for the right class, ``s / C`` for each other.
    """
    targets = torch.full((len(labels), num_classes), mixing.smoothing / num_classes, device=images.device)
    targets.scatter_(1, labels[:, None], 1 - mixing.smoothing + mixing.smoothing / num_classes)
    rng = np.random.default_rng([seed, MIXING, step, rank])
    cut = mixing.cutmix > 0 and (mixing.mixup == 0 or rng.random() < mixing.switch_prob)
    if cut:
        share = rng.beta(mixing.cutmix, mixing.cutmix)
        return cutmix(images, targets, share, rng.random(2))
    if mixing.mixup > 0:
        return mixup(images, targets, rng.beta(mixing.mixup, mixing.mixup))
    return images, targets


def mixup(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """``share`` of each image and target, and 1 - ``share`` of its neighbour's (arXiv 1710.09412)."""
    return images.roll(1, 0).lerp(images, share), targets.roll(1, 0).lerp(targets, share)


def cutmix(images: Tensor, targets: Tensor, share: float, centre: np.ndarray) -> tuple[Tensor, Tensor]:
    """A box of 1 - ``share`` of the area comes from the neighbour (arXiv 1905.04899).

    ``centre`` is the box's (x, y) in [0, 1); what sticks out of the image is cut off, and the targets follow the area
    that is left.
    """
    height, width = images.shape[-2:]
    x, y = int(centre[0] * width), int(centre[1] * height)
    half = 0.5 * (1 - share) ** 0.5
    half_w, half_h = int(half * width), int(half * height)
    left, right = max(x - half_w, 0), min(x + half_w, width)
    top, bottom = max(y - half_h, 0), min(y + half_h, height)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.roll(1, 0)[..., top:bottom, left:right]
    kept = 1 - (right - left) * (bottom - top) / (width * height)
    return mixed, targets.roll(1, 0).lerp(targets, kept)

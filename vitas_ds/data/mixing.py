"""Mixup, CutMix and label smoothing of a batch: a pure function of (seed, step, rank).

Each image is mixed with the previous one in the batch. As in torchvision v2, the whole batch shares one ``lam``, the
weight of the original image.
"""
# B batch, C classes, H and W height and width in pixels

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vitas_ds.config import Mixing

MIXING = 0x313  # tag of the random stream
TABLE_CLASSES = 2048  # a table of this many classes takes 17 MB


def mix(
    images: Tensor, labels: Tensor, mixing: Mixing, num_classes: int, seed: int, step: int, rank: int
) -> tuple[Tensor, Tensor]:
    """Mix a batch and return new images [B, 3, H, W] and soft targets [B, C] float32; the inputs are not modified.

    If Mixup and CutMix are both enabled, a batch uses CutMix with probability ``switch_prob`` and Mixup otherwise.
    Label smoothing s gives ``1 - s + s / C`` for the true class and ``s / C`` for each other class.
    """
    targets = _smooth_targets(labels, num_classes, mixing.smoothing)
    rng = np.random.default_rng([seed, MIXING, step, rank])
    use_cutmix = mixing.cutmix > 0 and (mixing.mixup == 0 or rng.random() < mixing.switch_prob)
    if use_cutmix:
        lam = rng.beta(mixing.cutmix, mixing.cutmix)
        return cutmix(images, targets, lam, rng.random(2))
    if mixing.mixup > 0:
        return mixup(images, targets, rng.beta(mixing.mixup, mixing.mixup))
    return images, targets


def _smooth_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return the targets [B, C] of labels [B]."""
    if num_classes <= TABLE_CLASSES:
        return _table(num_classes, smoothing, labels.device)[labels]
    targets = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    return targets.scatter_(1, labels[:, None].long(), 1 - smoothing + smoothing / num_classes)


@lru_cache(maxsize=4)
def _table(num_classes: int, smoothing: float, device: torch.device) -> Tensor:
    """Return the targets [C, C] of all classes: a lookup is one kernel less than filling a batch."""
    with torch.inference_mode(False):
        targets = torch.full((num_classes, num_classes), smoothing / num_classes, device=device)
        return targets.fill_diagonal_(1 - smoothing + smoothing / num_classes)


def mixup(images: Tensor, targets: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Blend each image and target with the previous one: ``lam`` and 1 - ``lam`` (arXiv 1710.09412)."""
    return images.roll(1, 0).lerp(images, lam), targets.roll(1, 0).lerp(targets, lam)


def cutmix(images: Tensor, targets: Tensor, lam: float, center: np.ndarray) -> tuple[Tensor, Tensor]:
    """Replace a box of 1 - ``lam`` of the area by the previous image (arXiv 1905.04899).

    Args:
        images: [B, 3, H, W].
        targets: [B, C].
        lam: Share of the area kept by the image, before clipping.
        center: Center (x, y) of the box in [0, 1). The box is clipped to the image; the targets are weighted by the
            area after clipping.
    """
    height, width = images.shape[-2:]
    x, y = int(center[0] * width), int(center[1] * height)
    half = 0.5 * (1 - lam) ** 0.5
    half_w, half_h = int(half * width), int(half * height)
    left, right = max(x - half_w, 0), min(x + half_w, width)
    top, bottom = max(y - half_h, 0), min(y + half_h, height)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right].roll(1, 0)
    kept = 1 - (right - left) * (bottom - top) / (width * height)
    return mixed, targets.roll(1, 0).lerp(targets, kept)

"""A small supernet trained on real digits with plain torch, and held-out digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from vitas_ds.arch.space import SearchSpace
from vitas_ds.data.sources import ImageSet
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet
from vitas_ds.training import sampling

SPACE = SearchSpace(
    image_size=8, num_classes=10, patch_sizes=(2, 4), embed_dim=32, depth=4, num_heads=(2, 4),
    qkv_dim=96, mlp_dim=64, ratios=(0.5, 1.0),
)  # fmt: skip
BUDGET = (50_000, 400_000)


@dataclass(frozen=True)
class Trained:
    """A trained supernet and the held-out images; ``pixels`` is uint8 [597, 3, 8, 8]."""

    supernet: Supernet
    pixels: Tensor
    images: ImageSet


def prepare(pixels: Tensor) -> Tensor:
    """Convert uint8 pixels to the supernet's input."""
    return pixels.float() / 127.5 - 1


@cache
def trained(steps: int = 300, batch: int = 64, lr: float = 3e-3) -> Trained:
    """Train with one random subnet per step and AdamW on 1,200 digits."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = torch.from_numpy((digits.images[order] * 15.9).astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    y = torch.from_numpy(digits.target[order]).long()
    supernet = Supernet(SPACE, "ordinal")
    init_weights(supernet, 0)
    optimizer = torch.optim.AdamW(supernet.parameters(), lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for step in range(steps):
        rows = torch.from_numpy(np.random.default_rng([1, step]).integers(0, 1200, batch))
        logits = supernet(prepare(x[rows]), sampling.draw(SPACE, 0, step, 0.2)).sum(0)
        torch.nn.functional.cross_entropy(logits, y[rows]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    held_out = y[1200:].numpy()
    names = tuple(f"{label}/{i}.jpg" for i, label in enumerate(held_out))
    images = ImageSet("digits", names, held_out, tuple(map(str, range(10))))
    return Trained(supernet.eval(), x[1200:].contiguous(), images)

"""Small supernets with random weights, their images and gradients."""

from __future__ import annotations

from typing import Any

import torch

from vitas_ds.arch.space import SearchSpace
from vitas_ds.models.flat import named_tensors, tensor_places
from vitas_ds.models.supernet import Supernet

SMALL = SearchSpace(
    image_size=16, num_classes=5, patch_sizes=(4, 8), embed_dim=20, depth=3, num_heads=(1, 2), qkv_dim=60, mlp_dim=30
)


def make(
    space: SearchSpace, rule: Any = "ordinal", mode: int = 2, seed: int = 0, private_norms: bool = False
) -> Supernet:
    """Return a supernet with random values everywhere, including biases: no term vanishes."""
    supernet = Supernet(space, rule, mode, private_norms=private_norms)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in named_tensors(supernet).values():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return supernet


def gradients(supernet: Supernet) -> dict[str, torch.Tensor]:
    """Return the gradient of each named tensor whose parameter has one."""
    return {
        name: place.within(place.parameter.grad)
        for name, place in tensor_places(supernet).items()
        if place.parameter.grad is not None
    }


def images(space: SearchSpace, count: int = 2) -> torch.Tensor:
    size = space.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))

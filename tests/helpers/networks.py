"""Networks with random weights."""

from __future__ import annotations

import torch

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.vit import VisionTransformer


def random_network(spec: SubnetSpec) -> VisionTransformer:
    """Return a network with random weights and non-uniform attention, to make the softmax scale matter."""
    model = VisionTransformer(spec).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.15 if weight.ndim > 1 else 0.5))
    return model

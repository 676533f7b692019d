"""Vision transformers of timm with random weights, small enough for unit tests."""

from __future__ import annotations

from typing import Any

import timm
import torch

SMALL: dict[str, Any] = {
    "depth": 2,
    "embed_dim": 48,
    "num_heads": 3,
    "img_size": 32,
    "patch_size": 8,
    "num_classes": 10,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "deit": ("deit_tiny_patch16_224", {}),
    "distilled deit": ("deit_small_distilled_patch16_224", {}),
    "deit3, LayerScale and class token without position": ("deit3_small_patch16_224", {}),
    "vit": ("vit_base_patch16_224", {}),
    "vit with fc_norm": ("vit_small_patch16_224", {"global_pool": "avg"}),
    "vit without biases": ("vit_small_patch16_224", {"qkv_bias": False, "proj_bias": False}),
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "dinov2 with registers": ("vit_small_patch14_reg4_dinov2", {}),
    "registers, averaged patches": ("vit_small_patch14_reg4_dinov2", {"global_pool": "avg"}),
}


def randomize(model: torch.nn.Module) -> Any:
    """Set all values to random ones, so that a forgotten or misplaced tensor changes the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            value = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(float(not name.endswith("bias")) + 0.3 * value)
            else:
                weight.copy_(value * (0.5 if "token" in name or "embed" in name else 0.15))
    return model.eval()


def make(family: str) -> Any:
    """Return a random network of a family."""
    name, special = FAMILIES[family]
    return randomize(timm.create_model(name, pretrained=False, **SMALL | special))

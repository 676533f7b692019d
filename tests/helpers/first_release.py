"""Checkpoints as the first release wrote them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import torch

from tests.helpers.paths import FIXTURES
from vitas_ds.arch.published import published


def keys(net: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the first release's net has, written out from its table alone."""
    spec = published(net, first_release=True).spec
    D = spec.embed_dim
    shapes = {
        "init_stem_Patch_init_0.0.cls_token": (1, 1, D),
        "init_stem_Patch_init_0.0.pos_embed": (1, spec.num_patches + 1, D),
        "init_stem_Patch_init_0.0.patch_embed.proj.weight": (D, 3, 16, 16),
        "init_stem_Patch_init_0.0.patch_embed.proj.bias": (D,),
    }
    for i, layer in enumerate(spec.layers):
        if layer is not None:
            linears = {
                "attn.qkv": (layer.qkv_dim, D),
                "attn.proj": (D, layer.qkv_dim // 3),
                "mlp.fc1": (layer.mlp_dim, D),
                "mlp.fc2": (D, layer.mlp_dim),
            }
            for part, shape in linears.items():
                shapes |= {f"Block_Block_{i}.0.{part}.weight": shape, f"Block_Block_{i}.0.{part}.bias": shape[:1]}
            for norm in ("norm1", "norm2"):
                shapes |= {f"Block_Block_{i}.0.{norm}.{kind}": (D,) for kind in ("weight", "bias")}
    shapes |= {"Norm_Norm_0.0.weight": (D,), "Norm_Norm_0.0.bias": (D,)}
    shapes |= {"FC_FC_0.0.module.0.weight": (1000, D), "FC_FC_0.0.module.0.bias": (1000,)}
    return {f"module.net.backbone_{name}": shape for name, shape in shapes.items()}


def seeded(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The rule by which the fixture's weights were made."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    norm_weight = key.endswith("weight") and (".norm" in key or "_Norm_" in key)
    return 1 + 0.1 * value if norm_weight else 0.05 * value


FIXTURE = json.loads((FIXTURES / "first_release_logits.json").read_text())


def tensors(net: str) -> dict[str, torch.Tensor]:
    return {key: seeded(key, shape) for key, shape in keys(net).items()}


def write(path: Path, model: dict) -> Path:
    torch.save({"model": model, "optimizer": {"state": {}}, "epoch": 299}, path)
    return path

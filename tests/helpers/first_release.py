"""Checkpoints in the format of the first release."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import torch

from tests.helpers.paths import FIXTURES
from vitas_ds.arch.published import published


def tensor_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a published network in the first release, written by hand from its table."""
    spec = published(name, first_release=True).spec
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
    return {f"module.net.backbone_{key}": shape for key, shape in shapes.items()}


def seeded_tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the weights behind the logits of the fixture."""
    value = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    norm_weight = key.endswith("weight") and (".norm" in key or "_Norm_" in key)
    return 1 + 0.1 * value if norm_weight else 0.05 * value


FIXTURE = json.loads((FIXTURES / "first_release_logits.json").read_text())


def seeded_tensors(name: str) -> dict[str, torch.Tensor]:
    """Return the weights of a published network, by tensor name of the first release."""
    return {key: seeded_tensor(key, shape) for key, shape in tensor_shapes(name).items()}


def write_checkpoint(path: Path, model: dict) -> Path:
    """Write ``model`` in the format of the first release and return ``path``."""
    torch.save({"model": model, "optimizer": {"state": {}}, "epoch": 299}, path)
    return path

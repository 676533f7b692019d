"""Import of the first release's checkpoints: ``.pth.tar`` -> the plain network with those weights."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor

from vitas_ds.arch.published import published
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.models.shapes import check_shapes, shapes_of
from vitas_ds.models.vit import VisionTransformer

STEM, BLOCK = "module.net.backbone_init_stem_Patch_init_0.0.", "module.net.backbone_Block_Block_{}.0."
NORM, HEAD = "module.net.backbone_Norm_Norm_0.0.", "module.net.backbone_FC_FC_0.0.module.0."


def import_first_release(net: str, path: Path) -> VisionTransformer:
    """The published net ``net`` with the weights of a first-release checkpoint; runs no code from the file.

    Its softmax scale, the 1e-5 of its final norm and its identity positions come with the spec.

    Raises:
        UserError: unreadable file, or one of another net: the first missing, extra or misshapen tensor is named.
    """
    spec = published(net, first_release=True).spec
    if not net.startswith("vitas"):
        raise UserError(f"--net {net}: the first release has no checkpoint of it")
    source = _read(path)
    model = VisionTransformer(spec)
    names, shapes = _names(spec), shapes_of(model.state_dict())
    expected = {theirs: shapes[ours] for theirs, ours in names.items()}
    check_shapes(f"{path}: not a checkpoint of {net}", shapes_of(source), expected)
    model.load_state_dict({names[name]: value for name, value in source.items()})
    return model.eval()


def _names(spec: SubnetSpec) -> dict[str, str]:
    """Tensor name of the first release -> ours. Its blocks are numbered by position, identities included."""
    names = {f"{STEM}{n}": n for n in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")}
    positions = [i for i, layer in enumerate(spec.layers) if layer is not None]
    for i, position in enumerate(positions):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            for kind in ("weight", "bias"):
                names[f"{BLOCK.format(position)}{part}.{kind}"] = f"blocks.{i}.{part}.{kind}"
    for kind in ("weight", "bias"):
        names |= {f"{NORM}{kind}": f"norm.{kind}", f"{HEAD}{kind}": f"head.{kind}"}
    return names


def _read(path: Path) -> dict[str, Tensor]:
    """The ``model`` dict of a checkpoint, as float32 tensors."""
    try:
        with warnings.catch_warnings(action="ignore"):
            data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # of a file that is no checkpoint, torch.load raises nearly anything
        found = re.search(r"(?i)unsupported (?:global|class)\W+(?:GLOBAL )?(\S+)", str(error))
        if found:
            raise UserError(f"{path}: holds more than tensors, which is not loaded: {found[1]}") from None
        raise UserError(f"{path}: not a torch checkpoint, or a damaged one ({type(error).__name__})") from None
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or not all(isinstance(v, Tensor) for v in model.values()):
        raise UserError(f"{path}: no dict of tensors under 'model', as the first release's checkpoints have")
    for name, value in model.items():
        if not value.isfinite().all():
            raise UserError(f"{path}: tensor {name} holds numbers that are not finite")
    return {name: value.float() for name, value in model.items()}

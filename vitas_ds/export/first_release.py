"""Import checkpoints (``.pth.tar``) of the first release of ViTAS."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vitas_ds.arch.published import published
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.export.weights import load_torch
from vitas_ds.models.shapes import check_finite, check_shapes, shapes_of
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.torch_files import check_sizes

STEM, BLOCK = "module.net.backbone_init_stem_Patch_init_0.0.", "module.net.backbone_Block_Block_{}.0."
NORM, HEAD = "module.net.backbone_Norm_Norm_0.0.", "module.net.backbone_FC_FC_0.0.module.0."


def import_first_release(name: str, path: Path) -> VisionTransformer:
    """Build the published network ``name`` with the weights of a first-release checkpoint.

    No code from the file is executed. The softmax scale, the eps 1e-5 of the final norm and the positions of identity
    layers come from the spec.

    Raises:
        UserError: The file cannot be read or contains another network. The message names the first wrong tensor.
    """
    spec = published(name, first_release=True).spec
    if not name.startswith("vitas"):
        raise UserError(f"--net {name}: the first release has no checkpoint of this network")
    tensors = _read(path)
    model = VisionTransformer(spec)
    new_names, shapes = _new_names(spec), shapes_of(model.state_dict())
    expected = {old: shapes[new] for old, new in new_names.items()}
    check_shapes(f"{path}: not a checkpoint of {name}", shapes_of(tensors), expected)
    model.load_state_dict({new_names[old]: value for old, value in tensors.items()})
    return model.eval()


def _new_names(spec: SubnetSpec) -> dict[str, str]:
    """Map tensor names of the first release to ours. Its block numbers also count identity layers."""
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
    """Return the ``model`` dict of a checkpoint as float32 tensors."""
    data = load_torch(path)
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or not all(isinstance(v, Tensor) for v in model.values()):
        raise UserError(f"{path}: no dict of tensors under the key 'model'; expected a checkpoint of the first release")
    check_sizes(path, model)
    check_finite(str(path), model)
    return {name: value.float() for name, value in model.items()}

"""Convert a network to timm: state dict, constructor arguments, and a folder that timm can load.

timm's VisionTransformer (1.0) has identical layers. The width of its attention is embed_dim, unless ``attn_layer`` is a
subclass with another head_dim. Its softmax scale is head_dim ** -0.5; a different scale, as in networks of the first
release, is folded into the weights of q, which is equivalent. Other values of eps are set after construction. A network
with two classifiers is a VisionTransformerDistilled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.export.folder import SAFETENSORS_METADATA, Preprocess
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import write_json, write_tensors, write_text

NORM_EPS = 1e-6  # timm's
NAME = "VisionTransformer"


@dataclass(frozen=True)
class TimmModel:
    """Constructor arguments and weights of a network in timm."""

    kwargs: dict[str, Any]  # of timm's VisionTransformer; numbers only
    head_dim: int | None  # None: timm's default, embed_dim // num_heads
    final_norm_eps: float | None  # None: timm's default
    tensors: dict[str, Tensor]
    norm_eps: float | None = None  # of the layers; None: timm's default
    distilled: bool = False  # VisionTransformerDistilled

    @property
    def plain(self) -> bool:
        """Whether ``kwargs`` suffice, and ``timm.create_model("local-dir:DIR")`` can build the network."""
        return self.head_dim is None and self.final_norm_eps is None and self.norm_eps is None

    @property
    def final_norm(self) -> str:
        """Name of the final norm."""
        return "fc_norm" if "fc_norm.weight" in self.tensors else "norm"


def to_timm(model: VisionTransformer) -> TimmModel:
    """Convert a network to timm. The weights are float32 copies on the CPU.

    Raises:
        UserError: timm's VisionTransformer cannot represent the network. The message names the reason.
    """
    spec = model.spec
    first = spec.active[0]
    for i, layer in enumerate(spec.active):
        for field in ("num_heads", "qkv_dim", "mlp_dim"):
            value, expected = getattr(layer, field), getattr(first, field)
            if value != expected:
                raise UserError(
                    f"timm's VisionTransformer requires identical layers, but layers[{i}].{field} is {value} and "
                    f"layers[0].{field} is {expected}"
                )
    kwargs = {
        "img_size": spec.image_size,
        "patch_size": spec.patch_size,
        "num_classes": spec.num_classes,
        "embed_dim": spec.embed_dim,
        "depth": spec.depth,
        "num_heads": first.num_heads,
        "mlp_ratio": _mlp_ratio(spec.embed_dim, first.mlp_dim),
    }
    tensors = {name: value.detach().float().cpu().clone() for name, value in model.state_dict().items()}
    tensors, special = _pretrained(tensors, spec)
    for i, layer in enumerate(spec.active):
        _fold_scale(tensors, f"blocks.{i}.attn.qkv", layer)
    head_dim = None if first.attn_dim == spec.embed_dim else first.head_dim
    final_eps, eps = (None if value == NORM_EPS else value for value in (spec.final_norm_eps, spec.norm_eps))
    return TimmModel(kwargs | special, head_dim, final_eps, tensors, eps, spec.classifiers == 2)


def _pretrained(tensors: dict[str, Tensor], spec: SubnetSpec) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors under timm's names, and the arguments of networks imported from timm.

    Raises:
        UserError: timm has no class with these tokens.
    """
    kwargs: dict[str, Any] = {"init_values": 1e-5} if spec.layer_scale else {}
    registers = spec.prefix_tokens - spec.classifiers
    if spec.classifiers == 2 and registers:
        raise UserError(f"timm's VisionTransformerDistilled has 2 prefix tokens, the network has {spec.prefix_tokens}")
    names = ["cls_token"] + ["dist_token"] * (spec.classifiers - 1) + ["reg_token"] * bool(registers)
    sizes = [1] * spec.classifiers + [registers] * bool(registers)
    tensors |= {name: x.clone() for name, x in zip(names, tensors["cls_token"].split(sizes, 1), strict=True)}
    if registers:
        kwargs["reg_tokens"] = registers
    if spec.classifiers == 1 and not tensors["pos_embed"][:, : spec.prefix_tokens].any():
        tensors["pos_embed"] = tensors["pos_embed"][:, spec.prefix_tokens :].clone()
        kwargs["no_embed_class"] = True
    if spec.pool == "patches":
        kwargs["global_pool"] = "avg"
        tensors = {f"fc_{name}" if name.startswith("norm.") else name: x for name, x in tensors.items()}
    return tensors, kwargs


def _fold_scale(tensors: dict[str, Tensor], qkv: str, layer: LayerSpec) -> None:
    """Scale the rows of q if the softmax scale differs from timm's."""
    if layer.softmax_scale is not None:
        for kind in ("weight", "bias"):
            tensors[f"{qkv}.{kind}"][: layer.attn_dim] *= layer.softmax_scale * layer.head_dim**0.5


def _mlp_ratio(embed_dim: int, mlp_dim: int) -> float:
    """Return a ratio for which timm's ``int(embed_dim * mlp_ratio)`` is exactly ``mlp_dim``, despite rounding."""
    ratio = mlp_dim / embed_dim
    return ratio if int(embed_dim * ratio) == mlp_dim else (mlp_dim + 0.5) / embed_dim


def build_timm(converted: TimmModel) -> nn.Module:
    """Build timm's ``VisionTransformer`` in evaluation mode. timm must be installed."""
    from timm.layers.attention import Attention
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer as Timm

    extra: dict[str, Any] = {}
    if converted.head_dim is not None:
        init = partialmethod(Attention.__init__, attn_head_dim=converted.head_dim)
        extra["attn_layer"] = type("HeadDimAttention", (Attention,), {"__init__": init})
    model: Any = (VisionTransformerDistilled if converted.distilled else Timm)(
        **converted.kwargs, **extra, weight_init="skip"
    )
    if converted.norm_eps is not None:
        for block in model.blocks:
            block.norm1.eps = block.norm2.eps = converted.norm_eps
    if converted.final_norm_eps is not None:
        getattr(model, converted.final_norm).eps = converted.final_norm_eps
    model.load_state_dict(converted.tensors)
    return cast(nn.Module, model.eval())


def write_timm(model: VisionTransformer, directory: Path, preprocess: Preprocess) -> None:
    """Write ``model.safetensors``, a README with code that builds the model, and ``config.json`` if it is ``plain``.

    Raises:
        UserError: timm's VisionTransformer cannot represent the network.
    """
    converted = to_timm(model)
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / "model.safetensors", converted.tensors, SAFETENSORS_METADATA)
    if converted.plain:
        write_json(directory / "config.json", _hub_config(converted, preprocess))
    write_text(directory / "README.md", f"# For timm 1.0\n\n```python\n{_recipe(converted)}```\n")


def add_to_config(converted: TimmModel, model: VisionTransformer, preprocess: Preprocess, path: Path) -> bool:
    """Add timm's keys to the ``config.json`` of an exported folder, so timm can load the folder itself.

    Returns:
        False if that is impossible: the network needs code, or other weights than ``model.safetensors``.
    """
    own = model.state_dict()
    same = own.keys() == converted.tensors.keys() and all(
        torch.equal(value.float().cpu(), converted.tensors[name]) for name, value in own.items()
    )
    if same and converted.plain:
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | _hub_config(converted, preprocess))
    return same and converted.plain


def _hub_config(converted: TimmModel, preprocess: Preprocess) -> dict[str, Any]:
    size = converted.kwargs["img_size"]
    ratio = size / preprocess.resize
    return {
        # timm needs a name; every number is overridden
        "architecture": "deit_base_distilled_patch16_224" if converted.distilled else "vit_base_patch16_224",
        "num_classes": converted.kwargs["num_classes"],
        "model_args": {name: value for name, value in converted.kwargs.items() if name != "num_classes"},
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_mode": "center",
            # timm resizes to int(size / crop_pct)
            "crop_pct": ratio if int(size / ratio) == preprocess.resize else size / (preprocess.resize + 0.5),
            "mean": preprocess.mean,
            "std": preprocess.std,
            "num_classes": converted.kwargs["num_classes"],
            "label_names": list(preprocess.classes),
        },
    }


def _recipe(converted: TimmModel) -> str:
    """Return Python code that builds the model of this folder."""
    if converted.plain:
        return 'import timm\n\nmodel = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()\n'
    module, kind = ("deit", "VisionTransformerDistilled") if converted.distilled else ("vision_transformer", NAME)
    lines = ["from safetensors.torch import load_file", f"from timm.models.{module} import {kind}"]
    arguments = f"**{converted.kwargs}"
    if converted.head_dim is not None:
        lines += [
            "from timm.layers import Attention",
            "\n\nclass HeadDimAttention(Attention):",
            "    def __init__(self, *args, **kwargs):",
            f"        super().__init__(*args, attn_head_dim={converted.head_dim}, **kwargs)",
            "\n",
        ]
        arguments += ", attn_layer=HeadDimAttention"
    lines += [f"model = {kind}({arguments})"]
    if converted.norm_eps is not None:
        lines += ["for block in model.blocks:", f"    block.norm1.eps = block.norm2.eps = {converted.norm_eps}"]
    if converted.final_norm_eps is not None:
        lines += [f"model.{converted.final_norm}.eps = {converted.final_norm_eps}"]
    lines += ['model.load_state_dict(load_file("model.safetensors"))', "model.eval()"]
    return "\n".join(lines) + "\n"

"""A plain network as a model of timm: state dict, the arguments that build it, and a folder that timm reads.

timm's VisionTransformer (1.0) makes all layers alike. Its attention is as wide as the residual stream unless
``attn_layer`` is a subclass that says otherwise, and its softmax scale is head_dim ** -0.5: another scale, as in nets
of the first release, goes into q's weights, which computes the same. Its norms share one eps; a final norm of another
eps is set after building.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitas_ds.arch.spec import LayerSpec
from vitas_ds.errors import UserError
from vitas_ds.export.folder import Preprocess, write_tensors
from vitas_ds.models.vit import VisionTransformer
from vitas_ds.run.files import write_json, write_text

NORM_EPS = 1e-6  # timm's


@dataclass(frozen=True)
class TimmNet:
    """What builds a network in timm, and its weights."""

    kwargs: dict[str, Any]  # of timm's VisionTransformer; plain numbers
    head_dim: int | None  # None: timm's own, embed_dim // num_heads
    final_norm_eps: float | None  # None: timm's own
    tensors: dict[str, Tensor]

    @property
    def plain(self) -> bool:
        """Whether ``kwargs`` say it all, so that ``timm.create_model("local-dir:DIR")`` builds it."""
        return self.head_dim is None and self.final_norm_eps is None


def to_timm(model: VisionTransformer) -> TimmNet:
    """The network in timm's terms; weights are float32 copies on the CPU.

    Raises:
        UserError: timm's VisionTransformer cannot express it; the line says what stands against it.
    """
    spec = model.spec
    first = spec.active[0]
    for i, layer in enumerate(spec.active):
        for field in ("num_heads", "qkv_dim", "mlp_dim"):
            ours, theirs = getattr(layer, field), getattr(first, field)
            if ours != theirs:
                raise UserError(
                    f"timm's VisionTransformer has layers that are all alike, but layers[{i}].{field} is {ours} and "
                    f"layers[0].{field} is {theirs}"
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
    for i, layer in enumerate(spec.active):
        _fold_scale(tensors, f"blocks.{i}.attn.qkv", layer)
    head_dim = None if first.attn_dim == spec.embed_dim else first.head_dim
    return TimmNet(kwargs, head_dim, None if spec.final_norm_eps == NORM_EPS else spec.final_norm_eps, tensors)


def _fold_scale(tensors: dict[str, Tensor], qkv: str, layer: LayerSpec) -> None:
    """Let q's rows make up for a softmax scale that is not timm's."""
    if layer.softmax_scale is not None:
        for kind in ("weight", "bias"):
            tensors[f"{qkv}.{kind}"][: layer.attn_dim] *= layer.softmax_scale * layer.head_dim**0.5


def _mlp_ratio(embed_dim: int, mlp_dim: int) -> float:
    """A ratio of which timm's ``int(embed_dim * mlp_ratio)`` is ``mlp_dim``, whatever the division rounds to."""
    ratio = mlp_dim / embed_dim
    return ratio if int(embed_dim * ratio) == mlp_dim else (mlp_dim + 0.5) / embed_dim


def build_timm(net: TimmNet) -> nn.Module:
    """The network as timm's ``VisionTransformer``, in evaluation mode. timm must be installed."""
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import VisionTransformer as Timm

    extra: dict[str, Any] = {}
    if net.head_dim is not None:
        init = partialmethod(Attention.__init__, attn_head_dim=net.head_dim)
        extra["attn_layer"] = type("HeadDimAttention", (Attention,), {"__init__": init})
    model = Timm(**net.kwargs, **extra, weight_init="skip")
    if net.final_norm_eps is not None:
        model.norm.eps = net.final_norm_eps
    model.load_state_dict(net.tensors)
    return model.eval()


def write_timm(model: VisionTransformer, directory: Path, preprocess: Preprocess) -> None:
    """Write ``model.safetensors``, a README that builds the model, and ``config.json`` where numbers alone say it.

    Raises:
        UserError: timm's VisionTransformer cannot express the network.
    """
    net = to_timm(model)
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / "model.safetensors", net.tensors)
    if net.plain:
        write_json(directory / "config.json", _hub_config(net, preprocess))
    write_text(directory / "README.md", f"# For timm 1.0\n\n```python\n{_recipe(net)}```\n")


def _hub_config(net: TimmNet, preprocess: Preprocess) -> dict[str, Any]:
    size = net.kwargs["img_size"]
    ratio = size / preprocess.resize
    return {
        "architecture": "vit_base_patch16_224",  # every number of it is overridden
        "num_classes": net.kwargs["num_classes"],
        "model_args": {name: value for name, value in net.kwargs.items() if name != "num_classes"},
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_mode": "center",
            # timm resizes to int(size / crop_pct)
            "crop_pct": ratio if int(size / ratio) == preprocess.resize else size / (preprocess.resize + 0.5),
            "mean": preprocess.mean,
            "std": preprocess.std,
            "num_classes": net.kwargs["num_classes"],
            "label_names": list(preprocess.classes),
        },
    }


def _recipe(net: TimmNet) -> str:
    """Lines of Python that build the model in this folder."""
    if net.plain:
        return 'import timm\n\nmodel = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()\n'
    lines = ["from safetensors.torch import load_file", "from timm.models.vision_transformer import VisionTransformer"]
    arguments = f"**{net.kwargs}"
    if net.head_dim is not None:
        lines += [
            "from timm.layers import Attention",
            "\n\nclass HeadDimAttention(Attention):",
            "    def __init__(self, *args, **kwargs):",
            f"        super().__init__(*args, attn_head_dim={net.head_dim}, **kwargs)",
            "\n",
        ]
        arguments += ", attn_layer=HeadDimAttention"
    lines += [f"model = VisionTransformer({arguments})"]
    if net.final_norm_eps is not None:
        lines += [f"model.norm.eps = {net.final_norm_eps}"]
    lines += ['model.load_state_dict(load_file("model.safetensors"))', "model.eval()"]
    return "\n".join(lines) + "\n"

"""The plain vision transformer of one spec, which is retrained, evaluated and exported. Tensor names are timm's.

The modules hold the weights; ``net`` computes.
"""
# B batch, H height, W width, D embed_dim, a = qkv_dim / 3

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitas_ds.arch.spec import LayerSpec, SubnetSpec, check_spec
from vitas_ds.models.execute import Stored, compute_dtype, execute, pad_multiple, prepare, run
from vitas_ds.models.net import NORM_EPS, LayerOptions, layer_options
from vitas_ds.models.plan import Axis, Part, Source, axis, head_part, layer_part, stem_part


class Attention(nn.Module):
    """Weights of multi-head self-attention; its width a is independent of embed_dim."""

    def __init__(self, embed_dim: int, layer: LayerSpec) -> None:
        super().__init__()
        self.qkv = nn.Linear(embed_dim, layer.qkv_dim)
        self.proj = nn.Linear(layer.attn_dim, embed_dim)


class Mlp(nn.Module):
    """Weights of two linear layers."""

    def __init__(self, embed_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, embed_dim)


class PatchEmbed(nn.Module):
    """Weights of the patch embedding, with the shape of a convolution: [D, 3, p, p]."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)


class Block(nn.Module):
    """Weights of a pre-norm transformer block."""

    def __init__(self, embed_dim: int, layer: LayerSpec, drop_path_rate: float) -> None:
        super().__init__()
        self.layer, self.drop_path_rate = layer, drop_path_rate
        self.norm1 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.attn = Attention(embed_dim, layer)
        self.norm2 = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.mlp = Mlp(embed_dim, layer.mlp_dim)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that uses the weights. ZeRO 3 gathers them for the time of this call."""
        return function(*args)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        modules = {
            "norm1": self.norm1, "attn.qkv": self.attn.qkv, "attn.proj": self.attn.proj, "norm2": self.norm2,
            "mlp.fc1": self.mlp.fc1, "mlp.fc2": self.mlp.fc2,
        }  # fmt: skip
        return {f"{name}.{kind}": getattr(m, kind) for name, m in modules.items() for kind in ("weight", "bias")}


class VisionTransformer(nn.Module):
    """The network of a spec: ``images [B, 3, H, W] float -> logits [B, classes]``.

    ``drop_path_rate`` increases linearly from 0 at the first layer to the given value at the last layer. With
    ``class_token_only``, the last layer computes only the class token, as in ``Supernet``: fewer MACs than the cost of
    the spec, and equal logits up to rounding.

    Raises:
        UserError: The spec does not describe a valid network.
    """

    def __init__(
        self, spec: SubnetSpec, drop_path_rate: float = 0.0, grad_checkpointing: bool = False,
        class_token_only: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        check_spec(spec)
        self.spec, self.grad_checkpointing = spec.canonical(), grad_checkpointing
        self.class_token_only = class_token_only
        D = spec.embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.pos_embed = nn.Parameter(torch.zeros(1, spec.num_patches + 1, D))
        self.patch_embed = PatchEmbed(spec.patch_size, D)
        # on the CPU even under torch.device("meta")
        rates = torch.linspace(0, drop_path_rate, spec.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(D, layer, rate) for layer, rate in zip(spec.active, rates, strict=True))
        self.norm = nn.LayerNorm(D, eps=spec.final_norm_eps)
        self.head = nn.Linear(D, spec.num_classes)
        self._parts: dict[tuple[int, int], list[Part]] = {}  # by padding and number of classes

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, classes]."""
        dtype, multiple = compute_dtype(self.cls_token), pad_multiple(self.cls_token.device)
        recompute = self.grad_checkpointing and self.training
        arguments = images, self._spec(), self._options()
        if torch.compiler.is_compiling() or (multiple == 1 and dtype == self.cls_token.dtype):
            return run(*arguments, partial(self._call_unpacked, dtype), recompute)[0]
        return execute(*arguments, self._stored(multiple), dtype, recompute)[0]

    def bind(self) -> Callable[[Tensor], Tensor]:
        """Return the forward pass with the weights packed once, for many batches without gradients."""
        dtype, multiple = compute_dtype(self.cls_token), pad_multiple(self.cls_token.device)
        if multiple == 1 and dtype == self.cls_token.dtype:
            return self
        forward = prepare(self._spec(), self._options(), self._stored(multiple), dtype)
        return lambda images: forward(images)[0]

    def _spec(self) -> SubnetSpec:
        """Return the spec with the classes of ``head``, which may have been replaced for fine-tuning."""
        classes = cast(int, self.head.out_features)
        return self.spec if classes == self.spec.num_classes else replace(self.spec, num_classes=classes)

    def _options(self) -> list[LayerOptions]:
        last = len(self.blocks) - 1
        return [
            layer_options(
                block.layer, self.spec.embed_dim, self.class_token_only and i == last,
                block.drop_path_rate if self.training else 0.0,
            )
            for i, block in enumerate(cast(Iterable[Block], self.blocks))
        ]  # fmt: skip

    def _tensors(self, i: int) -> dict[str, Tensor]:
        """Return the weights of part i: 0 is the stem, -1 the head, the layers are in between."""
        if i == 0:
            proj = self.patch_embed.proj
            tokens = {"cls_token": self.cls_token, "pos_embed": self.pos_embed}
            return {"weight": proj.weight, "bias": cast(Tensor, proj.bias)} | tokens
        if i == -1:
            modules = {"norm": self.norm, "head": self.head}
            return {f"{name}.{kind}": getattr(m, kind) for name, m in modules.items() for kind in ("weight", "bias")}
        return cast(Block, self.blocks[i - 1]).tensors()

    def _call_unpacked(self, dtype: torch.dtype, i: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function with the weights themselves, as packed tensors of one side without padding."""

        def unpacked(*args: Any) -> Any:
            tensors = self._tensors(i)
            if i == len(self.blocks) and self.class_token_only:
                _split_q(tensors)
            return function({name: _one_side(name, tensor, dtype) for name, tensor in tensors.items()}, *args)

        return self.blocks[i - 1](unpacked, *args) if i > 0 else unpacked(*args)

    def _stored(self, multiple: int) -> list[Stored]:
        """Return the parts for packing."""
        key = multiple, self._spec().num_classes
        if key not in self._parts:
            self._parts[key] = self._make_parts(*key)
        stem, *layers, head = self._parts[key]
        stored = [
            Stored(part, partial(self._sources, i + 1), block)
            for i, (part, block) in enumerate(zip(layers, self.blocks, strict=True))
        ]
        return [Stored(stem, partial(self._sources, 0)), *stored, Stored(head, partial(self._sources, -1))]

    def _sources(self, i: int) -> list[Tensor]:
        return list(self._tensors(i).values())

    def _make_parts(self, multiple: int, num_classes: int) -> list[Part]:
        spec = self.spec
        embed = _whole(spec.embed_dim, 0, multiple)
        stem, head = _places(self._tensors(0)), _places(self._tensors(-1))
        parts = [stem_part(stem, embed, spec.patch_size, spec.num_patches + 1, multiple)]
        for i, layer in enumerate(spec.active):
            sources = _places(self._tensors(i + 1))
            for kind, stride in (("weight", spec.embed_dim), ("bias", 1)):
                qkv = sources.pop(f"attn.qkv.{kind}")
                for k, x in enumerate("qkv"):
                    sources[f"attn.{x}_{kind}"] = qkv._replace(offset=k * layer.attn_dim * stride)
            attn, mlp = _whole(layer.attn_dim, layer.head_dim, multiple), _whole(layer.mlp_dim, 0, multiple)
            parts.append(layer_part(sources, embed, attn, mlp, self.class_token_only and i == spec.depth - 1))
        return [*parts, head_part(head, embed, num_classes, multiple)]


def _whole(width: int, head_dim: int, multiple: int) -> Axis:
    return axis(("left",), width, (width,), head_dim, multiple)


def _places(tensors: dict[str, Tensor]) -> dict[str, Source]:
    """Return one source for each tensor; each is a parameter of its own."""
    return {name: Source.of(i, 0, tensor.shape) for i, (name, tensor) in enumerate(tensors.items())}


def _split_q(tensors: dict[str, Tensor]) -> None:
    """Split the joint projection into q, and k and v."""
    for kind in ("weight", "bias"):
        qkv = tensors.pop(f"attn.qkv.{kind}")
        tensors[f"attn.q.{kind}"], tensors[f"attn.kv.{kind}"] = qkv.tensor_split([len(qkv) // 3])


def _one_side(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight as the packed tensor of one side."""
    if name in ("cls_token", "pos_embed"):
        return tensor.to(dtype)  # [1, N, D]
    matrix = tensor.flatten(1) if tensor.ndim == 4 else tensor
    return matrix[None] if name.startswith("norm") else matrix[None].to(dtype)

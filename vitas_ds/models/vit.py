"""The plain vision transformer of one spec, which is retrained, evaluated and exported. Tensor names are timm's.

The modules hold the weights; ``net`` computes.
"""
# B batch, H height, W width, D embed_dim, a = qkv_dim / 3

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitas_ds.arch.spec import LayerSpec, SubnetSpec, check_spec
from vitas_ds.models.execute import Stored, compute_dtype, execute, pad_multiple, prepare, run
from vitas_ds.models.net import LayerOptions, layer_options
from vitas_ds.models.plan import CLASSIFIERS, Axis, Part, Source, axis, head_part, layer_part, stem_part


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


class LayerScale(nn.Module):
    """A factor for each channel of a branch."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(embed_dim))


class Block(nn.Module):
    """Weights of a pre-norm transformer block."""

    def __init__(self, spec: SubnetSpec, layer: LayerSpec, drop_path_rate: float) -> None:
        super().__init__()
        D = spec.embed_dim
        self.layer, self.drop_path_rate = layer, drop_path_rate
        self.norm1 = nn.LayerNorm(D, eps=spec.norm_eps)
        self.attn = Attention(D, layer)
        self.norm2 = nn.LayerNorm(D, eps=spec.norm_eps)
        self.mlp = Mlp(D, layer.mlp_dim)
        if spec.layer_scale:
            self.ls1, self.ls2 = LayerScale(D), LayerScale(D)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that uses the weights. ZeRO 3 gathers them for the time of this call."""
        return function(*args)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        modules = {
            "norm1": self.norm1, "attn.qkv": self.attn.qkv, "attn.proj": self.attn.proj, "norm2": self.norm2,
            "mlp.fc1": self.mlp.fc1, "mlp.fc2": self.mlp.fc2,
        }  # fmt: skip
        scales = {f"{name}.gamma": getattr(self, name).gamma for name in ("ls1", "ls2") if hasattr(self, name)}
        return _weights_and_biases(modules) | scales


class VisionTransformer(nn.Module):
    """The network of a spec: ``images [B, 3, H, W] float -> logits [B, classes]``.

    ``drop_path_rate`` increases linearly from 0 at the first layer to the given value at the last layer. With
    ``class_token_only``, the last layer computes only the class token, as in ``Supernet``: fewer MACs than the cost of
    the spec, and equal logits up to rounding. It does nothing if the classifier reads other tokens.

    ``cls_token`` [1, P, D] contains all prefix tokens: class token, then distillation token or registers. With two
    classifiers and ``separate``, training returns the logits of each, [2, B, classes], instead of their mean.

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
        self.cls_token = nn.Parameter(torch.zeros(1, spec.prefix_tokens, D))
        self.pos_embed = nn.Parameter(torch.zeros(1, spec.num_tokens, D))
        self.patch_embed = PatchEmbed(spec.patch_size, D)
        # on the CPU even under torch.device("meta")
        rates = torch.linspace(0, drop_path_rate, spec.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(spec, layer, rate) for layer, rate in zip(spec.active, rates, strict=True))
        self.norm = nn.LayerNorm(D, eps=spec.final_norm_eps)
        for name in CLASSIFIERS[: spec.classifiers]:
            self.add_module(name, nn.Linear(D, spec.num_classes))
        self._parts: dict[tuple[int, int], list[Part]] = {}  # by padding and number of classes
        self.separate = False
        self.frozen: frozenset[str] = frozenset()  # names of tensors that get no gradient

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, classes]; [2, B, classes] in training if ``separate``."""
        dtype, multiple = compute_dtype(self.cls_token), pad_multiple(self.cls_token.device)
        recompute = self.grad_checkpointing and self.training
        arguments, separate = (images, self._spec(), self._options()), self.separate and self.training
        if torch.compiler.is_compiling() or (multiple == 1 and dtype == self.cls_token.dtype):
            logits = run(*arguments, partial(self._call_unpacked, dtype), recompute, separate=separate)
        else:
            logits = execute(*arguments, self._stored(multiple), dtype, recompute, separate=separate)
        return logits[:, 0] if separate else logits[0]

    def bind(self) -> Callable[[Tensor], Tensor]:
        """Return the forward pass with the weights packed once, for many batches without gradients."""
        dtype, multiple = compute_dtype(self.cls_token), pad_multiple(self.cls_token.device)
        if multiple == 1 and dtype == self.cls_token.dtype:
            return self
        forward = prepare(self._spec(), self._options(), self._stored(multiple), dtype)
        return lambda images: forward(images)[0]

    def watch(self, images: Tensor, see: Callable[[int, tuple[Any, ...], Any], None]) -> Tensor:
        """Compute the logits, and call ``see(part, inputs, output)`` after each part of ``net.forward``.

        0 is the stem, -1 the head, the layers are in between.
        """
        dtype = compute_dtype(self.cls_token)

        def call(i: int, function: Callable[..., Any], *args: Any) -> Any:
            output = self._call_unpacked(dtype, i, function, *args)
            see(i, args, output)
            return output

        return run(images, self._spec(), self._options(), call)[0]

    def _spec(self) -> SubnetSpec:
        """Return the spec with the classes of ``head``, which may have been replaced for fine-tuning."""
        classes = cast(int, cast(nn.Linear, self.head).out_features)
        return self.spec if classes == self.spec.num_classes else replace(self.spec, num_classes=classes)

    def _options(self) -> list[LayerOptions]:
        return [
            layer_options(block.layer, self.spec, self._is_short(i), block.drop_path_rate if self.training else 0.0)
            for i, block in enumerate(cast(Iterable[Block], self.blocks))
        ]

    def _is_short(self, layer: int) -> bool:
        """Return whether the layer computes only the class token."""
        return self.class_token_only and layer == len(self.blocks) - 1 and self.spec.reads_class_token_only

    def _tensors(self, i: int) -> dict[str, Tensor]:
        """Return the weights of part i: 0 is the stem, -1 the head, the layers are in between."""
        if i == 0:
            proj = self.patch_embed.proj
            tokens = {"cls_token": self.cls_token, "pos_embed": self.pos_embed}
            return {"weight": proj.weight, "bias": cast(Tensor, proj.bias)} | tokens
        if i == -1:
            heads = {name: getattr(self, name) for name in CLASSIFIERS[: self.spec.classifiers]}
            return _weights_and_biases({"norm": self.norm} | heads)
        return cast(Block, self.blocks[i - 1]).tensors()

    def _call_unpacked(self, dtype: torch.dtype, i: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function with the weights themselves, as packed tensors of one side without padding."""

        def unpacked(*args: Any) -> Any:
            tensors = self._used_tensors(i)
            if self._is_short(i - 1):
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
        return list(self._used_tensors(i).values())

    def _used_tensors(self, i: int) -> dict[str, Tensor]:
        """Return the weights of part i. Frozen ones are detached, so no gradient is computed for them."""
        tensors = self._tensors(i)
        if not self.frozen:
            return tensors
        prefix = "" if i == -1 else f"blocks.{i - 1}." if i else "patch_embed.proj."
        tokens = ("cls_token", "pos_embed")
        full = {name: name if name in tokens else prefix + name for name in tensors}
        return {name: _detached(t) if full[name] in self.frozen else t for name, t in tensors.items()}

    def _make_parts(self, multiple: int, num_classes: int) -> list[Part]:
        spec = self.spec
        embed = _whole(spec.embed_dim, 0, multiple)
        stem, head = _places(self._tensors(0)), _places(self._tensors(-1))
        parts = [stem_part(stem, embed, spec.patch_size, spec.num_tokens, multiple, spec.prefix_tokens)]
        for i, layer in enumerate(spec.active):
            sources = _places(self._tensors(i + 1))
            for kind, stride in (("weight", spec.embed_dim), ("bias", 1)):
                qkv = sources.pop(f"attn.qkv.{kind}")
                for k, x in enumerate("qkv"):
                    sources[f"attn.{x}_{kind}"] = qkv._replace(offset=k * layer.attn_dim * stride)
            attn, mlp = _whole(layer.attn_dim, layer.head_dim, multiple), _whole(layer.mlp_dim, 0, multiple)
            parts.append(layer_part(sources, embed, attn, mlp, self._is_short(i)))
        return [*parts, head_part(head, embed, num_classes, multiple)]


def _weights_and_biases(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{kind}": getattr(m, kind) for name, m in modules.items() for kind in ("weight", "bias")}


def _detached(tensor: Tensor) -> Tensor:
    detached = tensor.detach()
    if hasattr(tensor, "ds_id"):  # by which ``execute`` knows that ZeRO 3 partitions the parameters
        detached.ds_id = tensor.ds_id  # type: ignore[attr-defined]
    return detached


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

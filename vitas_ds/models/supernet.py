"""The weight-sharing supernet: one set of weights for all networks of a space (ViTAS, arXiv 2106.13700)."""
# S sides, B batch, H height, W width, D embed_dim, a = qkv_dim / 3

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.fx.experimental._config
from torch import Tensor, nn

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models import net
from vitas_ds.models.channels import SIDES, Rule, Side
from vitas_ds.models.execute import Stored, compute_dtype, execute, pad_multiple, prepare
from vitas_ds.models.flat import FlatModule
from vitas_ds.models.net import layer_options
from vitas_ds.models.plan import CLASSIFIERS, Axis, Part, Source, axis, head_axis, head_part, layer_part, stem_part

PRIVATE = {0: "", 1: "v", 2: "qk"}  # projections with separate weights for each head count, by private_attention
MAX_PARTS = 2000  # parts kept for later steps; about 13 kB each


class Stem(FlatModule):
    """Weights of the patch embedding, class token and positions of one patch size (ViTAS, section 3.3)."""

    def __init__(self, space: SearchSpace, patch_size: int) -> None:
        super().__init__()
        D, prefix = space.embed_dim, space.elastic.prefix_tokens
        tokens = (space.image_size // patch_size) ** 2 + prefix
        tensors = {"weight": (D, 3, patch_size, patch_size), "bias": (D,)}
        self.add_flat("flat", tensors | {"cls_token": (1, prefix, D), "pos_embed": (1, tokens, D)})


class Block(FlatModule):
    """Weights of a transformer block.

    q, k and v have separate weights: a row belongs to the same one of them at every width. ``private_attention``
    selects those with separate weights for each head count (ViTAS, "private self-attention maps"): 0 none, 1 v,
    2 q and k. ``norm_keys`` names the pairs of patch size and embed_dim with their own norms.
    """

    def __init__(self, space: SearchSpace, private_attention: int, norm_keys: Sequence[str] = ()) -> None:
        super().__init__()
        D, a, mlp_dim = space.embed_dim, space.attn_widths[-1], space.mlp_dim
        self.private = PRIVATE[private_attention]
        shapes: dict[str, tuple[int, ...]] = {}
        for name, rows, columns in (("attn.proj", D, a), ("mlp.fc1", mlp_dim, D), ("mlp.fc2", D, mlp_dim)):
            shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
        norms: dict[str, tuple[int, ...]] = {
            f"{norm}.{kind}": (D,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")
        }
        shapes |= {} if norm_keys else norms
        shapes |= {"ls1.gamma": (D,), "ls2.gamma": (D,)} if space.elastic.layer_scale else {}
        for x in "qkv":
            if x not in self.private:
                shapes |= {f"attn.{x}_weight": (a, D), f"attn.{x}_bias": (a,)}
        self.add_flat("flat", shapes)
        for heads in space.num_heads if self.private else ():
            private = [(f"attn.{x}{heads}_weight", f"attn.{x}{heads}_bias") for x in self.private]
            self.add_flat(f"heads{heads}", {name: (a, D)[: 2 - i] for pair in private for i, name in enumerate(pair)})
        _add_norms(self, norm_keys, norms)

    def names_of(self, num_heads: int, norm_key: str = "") -> list[str]:
        """Return the names of the parameters of a layer."""
        return _names(*(["flat", f"heads{num_heads}"] if self.private else ["flat"]), norm_key)

    def parameters_of(self, num_heads: int, norm_key: str = "") -> list[Tensor]:
        """Return the parameters of a layer with this many heads, in a network with this ``_norm_key``."""
        return [getattr(self, name) for name in self.names_of(num_heads, norm_key)]

    def sources(self, num_heads: int, norm_key: str = "") -> dict[str, Source]:
        """Return where the tensors of a layer are in ``parameters_of``, named as in a block without private tensors."""
        found = dict[str, Source]()
        for index, parameter in enumerate(self.names_of(num_heads, norm_key)):
            for name, source in _sources(self, parameter, index).items():
                name = name.removeprefix(f"norms_{norm_key}.")
                found[name.replace(f"{num_heads}_", "_") if index and not name.startswith("norm") else name] = source
        return found


class Supernet(FlatModule):
    """``supernet(images, spec) -> logits [S, B, classes]``, with the S sides of the rule (2 for bilateral, else 1).

    The spec is an argument, not a state. It must be a network of ``space`` (``genome.encode`` checks this). Identity
    positions are skipped. A spec with fewer layers than positions uses the first blocks.

    With ``class_token_only``, the last layer computes q, projection and MLP only for the class token: the
    classifier reads no other token. The logits are equal up to rounding, and the forward pass needs fewer MACs than
    ``cost.macs`` counts. Use it for training and scoring. Without it, a forward pass executes exactly the MACs of the
    cost model (on GPUs, plus those of the padding).

    With ``private_norms``, each pair of patch size and embed_dim has its own norms.

    In an elastic space, a subnet uses the first channels of some heads, and the layers that its depth determines.
    Bilateral sides are centered there (``channels.centered_ranks``).
    """

    def __init__(
        self, space: SearchSpace, sharing: Rule, private_attention: int = 2, grad_checkpointing: bool = False,
        class_token_only: bool = False, private_norms: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.private_norms, self.centered = private_norms, space.elastic.on and sharing == "bilateral"
        self.space, self.sides, self.grad_checkpointing = space, SIDES[sharing], grad_checkpointing
        self.class_token_only, self.private = class_token_only, private_attention > 0
        self.pad_multiple: int | None = None  # None: by device
        self.block_function: Callable[..., Any] = net.block
        self.stems = nn.ModuleDict({f"patch{p}": Stem(space, p) for p in space.patch_sizes})
        keys = [_norm_key(p, d) for p in space.patch_sizes for d in space.embed_widths] if private_norms else []
        self.blocks = nn.ModuleList(Block(space, private_attention, keys) for _ in range(space.depth))
        D, classes = space.embed_dim, space.num_classes
        norm = {"norm.weight": (D,), "norm.bias": (D,)}
        heads = CLASSIFIERS[: space.elastic.classifiers]
        shapes = {f"{name}.{kind}": (classes, D)[:n] for name in heads for kind, n in (("weight", 2), ("bias", 1))}
        self.add_flat("flat", shapes | ({} if keys else norm))
        _add_norms(self, keys, norm)
        self._parts: dict[tuple[Any, ...], Part] = {}

    def forward(  # type: ignore[override]
        self, images: Tensor, spec: SubnetSpec, sides: Sequence[Side] | None = None
    ) -> Tensor:
        """[B, 3, H, W] -> [S, B, classes] for the given sides (None: all sides of the rule)."""
        recompute = self.grad_checkpointing and self.training
        return execute(images, *self._network(spec, sides), recompute, self.block_function)

    def bind(self, spec: SubnetSpec) -> Callable[[Tensor], Tensor]:
        """Return the forward pass of a subnet with its weights packed once, for many batches without gradients."""
        return prepare(*self._network(spec), block=self.block_function)

    def _network(
        self, spec: SubnetSpec, sides: Sequence[Side] | None = None
    ) -> tuple[SubnetSpec, list[net.LayerOptions], list[Stored], torch.dtype]:
        short = self.class_token_only and spec.reads_class_token_only
        stored = self.stored(spec, tuple(sides or self.sides), short)
        last = spec.depth - 1
        layers = [layer_options(layer, spec, short and i == last) for i, layer in enumerate(spec.active)]
        return spec, layers, stored, compute_dtype(cast(Tensor, self.flat))

    def compile_blocks(self, **options: Any) -> None:
        """Compile the block with dynamic shapes. Two graphs serve all subnets: the last layer has its own."""
        # Otherwise, equal widths in the first layer would have to be equal in all layers of this graph.
        torch.fx.experimental._config.use_duck_shape = False
        self.block_function = torch.compile(net.closed_block, dynamic=True, **options)

    def stored(
        self, spec: SubnetSpec, sides: tuple[Side, ...], class_token_only: bool = False, multiple: int = 0
    ) -> list[Stored]:
        """Return the parts of a subnet: stem, active layers, head.

        Args:
            spec: A network of the space.
            sides: Sides to pack.
            class_token_only: Pack the last layer for the class token only.
            multiple: Pad widths to a multiple of this; 0: the one that suits the device.
        """
        multiple = multiple or self.pad_multiple or pad_multiple(cast(Tensor, self.flat).device)
        embed = axis(sides, spec.embed_dim, self.space.embed_widths, 0, multiple, self.centered)
        stem, blocks, norm_key = self.stem(spec), self.active_blocks(spec), self._norm_key(spec)
        part = self._cached(
            lambda: stem_part(
                _sources(stem, "flat", 0), embed, spec.patch_size, spec.num_tokens, multiple, spec.prefix_tokens
            ),
            embed, spec.patch_size, multiple,
        )  # fmt: skip
        stored = [Stored(part, stem.flat_parameters, stem)]
        for i, (block, layer) in enumerate(blocks):
            last = class_token_only and i == len(blocks) - 1
            part = self._layer_part(embed, layer, norm_key, sides, multiple, last)
            stored.append(Stored(part, partial(block.parameters_of, layer.num_heads, norm_key), block))
        part = self._cached(
            lambda: head_part(self._head_sources(norm_key), embed, self.space.num_classes, multiple),
            embed, norm_key, multiple,
        )  # fmt: skip
        return [*stored, Stored(part, partial(self._head_parameters, norm_key))]

    def _norm_key(self, spec: SubnetSpec) -> str:
        return _norm_key(spec.patch_size, spec.embed_dim) if self.private_norms else ""

    def _head_parameters(self, norm_key: str) -> list[Tensor]:
        return [getattr(self, name) for name in _names("flat", norm_key)]

    def _head_sources(self, norm_key: str) -> dict[str, Source]:
        found = [_sources(self, name, i) for i, name in enumerate(_names("flat", norm_key))]
        return {name.removeprefix(f"norms_{norm_key}."): source for group in found for name, source in group.items()}

    def _layer_part(
        self, embed: Axis, layer: LayerSpec, norm_key: str, sides: tuple[Side, ...], multiple: int,
        class_token_only: bool,
    ) -> Part:  # fmt: skip
        """Return the part of a layer; equal for all blocks."""

        def make() -> Part:
            mlp = axis(sides, layer.mlp_dim, self.space.mlp_widths, 0, multiple, self.centered)
            attn = self._attn_axis(layer, sides, multiple)
            sources = cast(Block, self.blocks[0]).sources(layer.num_heads, norm_key)
            return layer_part(sources, embed, attn, mlp, class_token_only)

        return self._cached(make, embed, layer, norm_key, sides, multiple, class_token_only)

    def _attn_axis(self, layer: LayerSpec, sides: tuple[Side, ...], multiple: int) -> Axis:
        space, head_dim = self.space, self.space.elastic.head_dim
        if head_dim is None:
            return axis(sides, layer.attn_dim, space.attn_widths, layer.head_dim, multiple)
        return head_axis(sides, layer.num_heads, space.num_heads, layer.head_dim, head_dim, multiple, self.centered)

    def _cached(self, make: Callable[[], Part], *key: Any) -> Part:
        """Return the part of a key, and make it the first time."""
        if key not in self._parts:
            if len(self._parts) >= MAX_PARTS:
                self._parts.clear()
            self._parts[key] = make()
        return self._parts[key]

    def stem(self, spec: SubnetSpec) -> Stem:
        """Return the stem for the patch size of the spec."""
        return cast(Stem, self.stems[f"patch{spec.patch_size}"])

    def active_blocks(self, spec: SubnetSpec) -> list[tuple[Block, LayerSpec]]:
        """Return the active blocks of the spec, in order, each with its ``LayerSpec``."""
        blocks = cast(Iterable[Block], self.blocks)
        layers = self.space.positions(spec.layers)
        return [(block, layer) for block, layer in zip(blocks, layers, strict=False) if layer is not None]

    def units(self) -> dict[str, list[nn.Parameter]]:
        """Return the sampling units: a step uses all parameters of a unit, or none. Each unit is one parameter.

        The units are the stem of each patch size, each layer, the private attention of each layer and head count, the
        private norms of each layer and of the head, and the final norm with the classifier.
        """
        units = {name: list(stem.parameters()) for name, stem in self.stems.items()}
        for i, block in enumerate(self.blocks):
            for name, parameter in block.named_parameters():
                units[_unit(f"layer{i}", name)] = [parameter]
        for name, parameter in self.named_parameters(recurse=False):
            units[_unit("head", name)] = [parameter]
        return units

    def units_used(self, spec: SubnetSpec) -> set[str]:
        """Return the names of the sampling units in a forward pass of the spec."""
        norm_key, blocks = self._norm_key(spec), cast(Sequence[Block], self.blocks)
        used = {f"patch{spec.patch_size}", *(_unit("head", name) for name in _names("flat", norm_key))}
        for i, layer in enumerate(self.space.positions(spec.layers)):
            if layer is not None:
                used |= {_unit(f"layer{i}", name) for name in blocks[i].names_of(layer.num_heads, norm_key)}
        return used


def _unit(module: str, parameter: str) -> str:
    return module if parameter == "flat" else f"{module}.{parameter}"


def _norm_key(patch_size: int, embed_dim: int) -> str:
    return f"p{patch_size}_d{embed_dim}"


def _names(*names: str) -> list[str]:
    """Return the names of parameters; the last argument is the key of private norms, or empty."""
    *shared, norm_key = names
    return [*shared, f"norms_{norm_key}"] if norm_key else shared


def _add_norms(module: FlatModule, keys: Sequence[str], norms: Mapping[str, tuple[int, ...]]) -> None:
    for key in keys:
        module.add_flat(f"norms_{key}", {f"norms_{key}.{name}": shape for name, shape in norms.items()})


def _sources(module: FlatModule, parameter: str, index: int) -> dict[str, Source]:
    """Return where the tensors of a parameter are; ``index`` is its place in the parameters of the part."""
    found = module.ranges.items()
    return {name: Source.of(index, offset, shape) for name, (owner, offset, shape) in found if owner == parameter}

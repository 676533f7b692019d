"""The spec of one network, and ``spec.json``, its file format. Importing this module does not import torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitas_ds.errors import UserError, first_error
from vitas_ds.errors.reading import read_json


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One transformer block. ``qkv_dim`` is the total width of q, k and v. ``softmax_scale`` None: head_dim ** -0.5."""

    num_heads: int
    qkv_dim: int
    mlp_dim: int
    softmax_scale: float | None = None

    @property
    def attn_dim(self) -> int:
        """Number of channels of q (equal to that of k and v)."""
        return self.qkv_dim // 3

    @property
    def head_dim(self) -> int:
        """Number of channels of one head."""
        return self.attn_dim // self.num_heads


@dataclass(frozen=True, slots=True)
class SubnetSpec:
    """One network. A ``None`` in ``layers`` is an identity position. A spec without identities is canonical.

    The fields after ``layers`` are those of pretrained networks. Networks of a search space have the defaults.

    Attributes:
        image_size: Height and width of the input, in pixels.
        patch_size: Height and width of a patch, in pixels.
        embed_dim: Width of the residual stream.
        num_classes: Number of classes.
        layers: The transformer blocks.
        final_norm_eps: Added to the variance in the last norm.
        norm_eps: Added to the variance in the norms of the layers.
        prefix_tokens: Tokens before the patches: class token, distillation token, registers.
        classifiers: Classifiers, one for each of the first prefix tokens; their logits are averaged.
        pool: Input of the classifier: the class token, or the mean of the patches.
        layer_scale: Whether every branch has a factor per channel (arXiv 2103.17239).
    """

    image_size: int
    patch_size: int
    embed_dim: int
    num_classes: int
    layers: tuple[LayerSpec | None, ...]
    final_norm_eps: float = 1e-6
    norm_eps: float = 1e-6
    prefix_tokens: int = 1
    classifiers: int = 1
    pool: Literal["class", "patches"] = "class"
    layer_scale: bool = False

    @property
    def active(self) -> tuple[LayerSpec, ...]:
        """The layers without identity positions, in order."""
        return tuple(layer for layer in self.layers if layer is not None)

    @property
    def depth(self) -> int:
        """Number of active layers."""
        return len(self.active)

    @property
    def num_patches(self) -> int:
        """Number of patches of one image, without the class token."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tokens(self) -> int:
        """Number of tokens: patches, class token and other prefix tokens."""
        return self.num_patches + self.prefix_tokens

    @property
    def reads_class_token_only(self) -> bool:
        """Whether the logits depend on no other token of the last layer."""
        return self.pool == "class" and self.classifiers == 1

    def canonical(self) -> SubnetSpec:
        """Return an equivalent spec without identities (identity shifting moves them behind the last layer)."""
        return replace(self, layers=self.active)

    def describe(self) -> str:
        """Return a one-line description that groups equal consecutive layers."""
        groups = [(layer, len(list(group))) for layer, group in itertools.groupby(self.active)]
        layers = ", ".join(
            f"{count} x ({layer.num_heads} heads, q/k/v {layer.qkv_dim}, MLP {layer.mlp_dim})"
            for layer, count in groups
        )
        return f"patch_size {self.patch_size}, embed_dim {self.embed_dim}, layers {layers or 'none'}"

    def key(self) -> str:
        """Return a string key. Specs with the same canonical form have the same key."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of ``spec.json``, without identity positions and default values."""
        layers = []
        for layer in self.active:
            row = {"num_heads": layer.num_heads, "qkv_dim": layer.qkv_dim, "mlp_dim": layer.mlp_dim}
            layers.append(row if layer.softmax_scale is None else row | {"softmax_scale": layer.softmax_scale})
        fields = {name: getattr(self, name) for name in ("image_size", "patch_size", "embed_dim", "num_classes")}
        special = {name: getattr(self, name) for name, usual in USUAL.items() if getattr(self, name) != usual}
        return fields | special | {"layers": layers}


# fields with a default, which spec.json leaves out
USUAL: dict[str, Any] = {field.name: field.default for field in fields(SubnetSpec) if field.default is not MISSING}


MAX_WIDTH, MAX_IMAGE, MAX_CLASSES, MAX_DEPTH = 65536, 4096, 1_000_000, 1000


def check_costs(grid: int, embed_dim: int, num_classes: int, layers: Sequence[tuple[int, int]]) -> None:
    """Check that all costs of a network are below 2 ** 63: they are int64.

    Args:
        grid: Patches per side of the image.
        embed_dim: Width of the residual stream.
        num_classes: Number of classes.
        layers: Widths (qkv_dim, mlp_dim) of each layer.

    Raises:
        ValueError: A cost may be larger.
    """
    tokens = grid**2 + 1024
    macs = sum(tokens * (4 * embed_dim * (qkv + mlp) + 2 * tokens * qkv) for qkv, mlp in layers)
    if 16 * (macs + tokens * embed_dim * num_classes) >= 2**63:
        raise ValueError(f"the largest network is too large: its costs may exceed 2 ** 63 ({grid**2} patches)")


class _LayerModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    num_heads: int = Field(gt=0, le=MAX_WIDTH)
    qkv_dim: int = Field(gt=0, le=MAX_WIDTH)
    mlp_dim: int = Field(gt=0, le=MAX_WIDTH)
    softmax_scale: float | None = Field(None, gt=0)


class _SpecModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    image_size: int = Field(gt=0, le=MAX_IMAGE)
    patch_size: int = Field(gt=0, le=MAX_IMAGE)
    embed_dim: int = Field(gt=0, le=MAX_WIDTH)
    num_classes: int = Field(gt=0, le=100 * MAX_WIDTH)
    final_norm_eps: float = Field(1e-6, gt=0)
    norm_eps: float = Field(1e-6, gt=0)
    prefix_tokens: int = Field(1, gt=0, le=1024)
    classifiers: int = Field(1, gt=0, le=2)
    pool: Literal["class", "patches"] = "class"
    layer_scale: bool = False
    layers: list[_LayerModel] = Field(min_length=1, max_length=MAX_DEPTH)


def spec_from_dict(data: Any, where: str = "spec") -> SubnetSpec:
    """Return the spec that ``to_dict`` wrote.

    Raises:
        UserError: A key is missing, unknown or of the wrong type, or the heads do not divide a width.
    """
    try:
        model = _SpecModel.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {first_error(error)}") from None
    layers = tuple(LayerSpec(**layer.model_dump()) for layer in model.layers)
    spec = SubnetSpec(**model.model_dump(exclude={"layers"}), layers=layers)
    check_spec(spec, where)
    return spec


def read_spec(path: Path) -> SubnetSpec:
    """Read a ``spec.json``, or a file that holds a spec under the key ``spec``.

    Raises:
        UserError: The file is missing or does not hold a valid spec.
    """
    try:
        data = read_json(Path(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such spec file") from None
    return spec_from_dict(data.get("spec", data) if isinstance(data, dict) else data, str(path))


def classifier_problem(classifiers: int, prefix_tokens: int, pool: str) -> str:
    """Return why a network cannot have so many classifiers; "" if it can."""
    if pool == "patches" and classifiers > 1:
        return f"classifiers {classifiers} needs pool class: the mean of the patches has one classifier"
    if classifiers > prefix_tokens:
        return f"classifiers {classifiers} is more than prefix_tokens {prefix_tokens}"
    return ""


def check_spec(spec: SubnetSpec, where: str = "spec") -> None:
    """Check that the spec describes a valid network.

    Raises:
        UserError: The patch size does not divide the image size, the heads do not divide a width, or a classifier has
            no token.
    """
    if problem := classifier_problem(spec.classifiers, spec.prefix_tokens, spec.pool):
        raise UserError(f"{where}: {problem}")
    if spec.image_size % spec.patch_size:
        raise UserError(f"{where}: image_size {spec.image_size} is not a multiple of patch_size {spec.patch_size}")
    try:
        widths = [(layer.qkv_dim, layer.mlp_dim) for layer in spec.active]
        check_costs(spec.image_size // spec.patch_size, spec.embed_dim, spec.num_classes, widths)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    for i, layer in enumerate(spec.layers):
        if layer is not None and layer.qkv_dim % (3 * layer.num_heads):
            raise UserError(
                f"{where}: layers[{i}].qkv_dim {layer.qkv_dim} is not a multiple of 3 * num_heads = "
                f"{3 * layer.num_heads}"
            )

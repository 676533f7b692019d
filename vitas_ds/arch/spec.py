"""A spec says one network in words and numbers; ``spec.json`` is its form on disk. No torch."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitas_ds.errors import UserError, first_error


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One transformer block. ``qkv_dim`` is q, k and v together; ``softmax_scale`` None means head_dim ** -0.5."""

    num_heads: int
    qkv_dim: int
    mlp_dim: int
    softmax_scale: float | None = None

    @property
    def attn_dim(self) -> int:
        """Channels of q (= of k = of v)."""
        return self.qkv_dim // 3

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.attn_dim // self.num_heads


@dataclass(frozen=True, slots=True)
class SubnetSpec:
    """One network. A ``None`` in ``layers`` is an identity position; a spec without any is in canonical form."""

    image_size: int
    patch_size: int
    embed_dim: int
    num_classes: int
    layers: tuple[LayerSpec | None, ...]
    final_norm_eps: float = 1e-6

    @property
    def active(self) -> tuple[LayerSpec, ...]:
        """The layers that compute something, in order."""
        return tuple(layer for layer in self.layers if layer is not None)

    @property
    def depth(self) -> int:
        """Number of layers that compute something."""
        return len(self.active)

    @property
    def num_patches(self) -> int:
        """Patches of one image, without the class token."""
        return (self.image_size // self.patch_size) ** 2

    def canonical(self) -> SubnetSpec:
        """The same function class with identities left out (identity shifting: they move to the deep end)."""
        return SubnetSpec(
            self.image_size, self.patch_size, self.embed_dim, self.num_classes, self.active, self.final_norm_eps
        )

    def words(self) -> str:
        """The net in a line; layers that follow each other and are alike are told once."""
        groups = [(layer, len(list(alike))) for layer, alike in itertools.groupby(self.active)]
        layers = ", ".join(
            f"{count} x ({layer.num_heads} heads, q/k/v {layer.qkv_dim}, MLP {layer.mlp_dim})"
            for layer, count in groups
        )
        return f"patch_size {self.patch_size}, embed_dim {self.embed_dim}, layers {layers or 'none'}"

    def key(self) -> str:
        """Return a text that is equal for nets of the same canonical form."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The contents of ``spec.json``; identity positions and default values are left out."""
        layers = []
        for layer in self.active:
            row = {"num_heads": layer.num_heads, "qkv_dim": layer.qkv_dim, "mlp_dim": layer.mlp_dim}
            layers.append(row if layer.softmax_scale is None else row | {"softmax_scale": layer.softmax_scale})
        fields = {name: getattr(self, name) for name in ("image_size", "patch_size", "embed_dim", "num_classes")}
        eps = {} if self.final_norm_eps == 1e-6 else {"final_norm_eps": self.final_norm_eps}
        return fields | eps | {"layers": layers}


MOST = 65536  # of any width: costs stay within 64 bits


class _LayerModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    num_heads: int = Field(gt=0, le=MOST)
    qkv_dim: int = Field(gt=0, le=MOST)
    mlp_dim: int = Field(gt=0, le=MOST)
    softmax_scale: float | None = Field(None, gt=0)


class _SpecModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    image_size: int = Field(gt=0, le=4096)
    patch_size: int = Field(gt=0, le=4096)
    embed_dim: int = Field(gt=0, le=MOST)
    num_classes: int = Field(gt=0, le=100 * MOST)
    final_norm_eps: float = Field(1e-6, gt=0)
    layers: list[_LayerModel] = Field(min_length=1, max_length=1000)


def spec_from_dict(data: Any, where: str = "spec") -> SubnetSpec:
    """The spec that ``to_dict`` wrote.

    Raises:
        UserError: a key is missing, unknown or of the wrong type, or a width does not divide by its heads.
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
    """The spec in a ``spec.json``. Raises ``UserError`` if the file is missing or is no spec."""
    try:
        data = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such spec file") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None
    return spec_from_dict(data.get("spec", data) if isinstance(data, dict) else data, str(path))


def check_spec(spec: SubnetSpec, where: str = "spec") -> None:
    """Raise ``UserError`` if no such network can be built."""
    if spec.image_size % spec.patch_size:
        raise UserError(f"{where}: image_size {spec.image_size} is not a multiple of patch_size {spec.patch_size}")
    for i, layer in enumerate(spec.layers):
        if layer is not None and layer.qkv_dim % (3 * layer.num_heads):
            raise UserError(
                f"{where}: layers[{i}].qkv_dim {layer.qkv_dim} is not a multiple of 3 * num_heads = "
                f"{3 * layer.num_heads}"
            )

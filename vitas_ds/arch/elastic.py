"""Settings for subnets of a pretrained network, besides the choices of widths. This module does not import torch.

The pretrained network is the largest subnet. A smaller one keeps some of its heads, the first channels of each kept
head, some hidden units of each MLP, and some channels of the residual stream. Layers are dropped in the order of a
list. It matters which ones, so identities are not shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vitas_ds.arch.spec import MAX_WIDTH, SubnetSpec, classifier_problem

NETWORK = (  # fields of Elastic, equal to those in the spec of the pretrained network
    "prefix_tokens", "classifiers", "pool", "layer_scale", "norm_eps", "final_norm_eps",
)  # fmt: skip


class Elastic(BaseModel):
    """Subnets of a pretrained network, which is the largest one (`supernet.init`). Off without `head_dim`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    head_dim: int | None = Field(
        None, gt=0, le=MAX_WIDTH, description="channels of a head of the pretrained network: a subnet keeps some "
        "heads, and qkv_ratios are fractions of head_dim, with the softmax scale of the whole head. null: off",
    )  # fmt: skip
    drop_order: tuple[int, ...] | None = Field(
        None, description="order in which layers are dropped: a subnet with k fewer layers lacks the first k of this "
        "list. null: train-supernet measures the order if supernet.init is set, else the last layers are dropped first",
    )  # fmt: skip
    prefix_tokens: int = Field(1, gt=0, le=1024, description="class token, distillation token and registers")
    classifiers: int = Field(1, gt=0, le=2, description="2: class token and distillation token have a classifier each")
    pool: Literal["class", "patches"] = Field("class", description="what the classifier reads: a token, or the mean")
    layer_scale: bool = Field(False, description="every branch has a factor per channel (LayerScale)")
    norm_eps: float = Field(1e-6, gt=0, le=1, description="added to the variance in the norms of the layers")
    final_norm_eps: float = Field(1e-6, gt=0, le=1, description="added to the variance in the last norm")
    softmax_scale: float | None = Field(None, gt=0, le=1e6, description="null: head_dim ** -0.5")

    @model_validator(mode="after")
    def _check(self) -> Elastic:
        for name, field in type(self).model_fields.items():
            if self.head_dim is None and getattr(self, name) != field.default:
                raise ValueError(f"{name} needs head_dim, the channels of a head of the pretrained network")
        if problem := classifier_problem(self.classifiers, self.prefix_tokens, self.pool):
            raise ValueError(problem)
        return self

    @property
    def on(self) -> bool:
        """Whether the networks of the space are subnets of a pretrained one."""
        return self.head_dim is not None

    @property
    def network(self) -> dict[str, Any]:
        """Fields of ``SubnetSpec`` that all subnets have in common."""
        return {name: getattr(self, name) for name in NETWORK}

    @property
    def costs(self) -> dict[str, Any]:
        """Fields of ``WidthTable`` that all subnets have in common."""
        return {name: getattr(self, name) for name in ("prefix_tokens", "classifiers", "layer_scale")}

    def scale(self, head_dim: int) -> float | None:
        """Return the ``softmax_scale`` of a layer whose heads keep this many channels: that of whole heads."""
        assert self.head_dim is not None
        return self.softmax_scale if head_dim == self.head_dim else self.softmax_scale or self.head_dim**-0.5

    def active_positions(self, depth: int) -> np.ndarray:
        """Return which positions hold a layer, bool [L + 1, L]: row k is that of networks with k layers."""
        order = range(depth - 1, -1, -1) if self.drop_order is None else self.drop_order
        rest = [i for i in range(depth) if i not in order]
        active = np.zeros((depth + 1, depth), bool)
        for k in range(1, depth + 1):
            active[k] = active[k - 1]
            active[k, [*order, *rest][depth - k]] = True
        return active

    def check_order(self, depth: int, min_layers: int) -> None:
        """Check that the order names enough layers, each once.

        Raises:
            ValueError: It does not.
        """
        order = self.drop_order
        if order is None:
            return
        if len(set(order)) != len(order) or not set(order) <= set(range(depth)) or len(order) < depth - min_layers:
            raise ValueError(
                f"elastic.drop_order must name {depth - min_layers} to {depth} different layers from 0 to {depth - 1} "
                f"(given: {list(order)})"
            )


def elastic_fields(spec: SubnetSpec) -> dict[str, Any]:
    """Return the settings of ``space`` that depend on the pretrained network, its largest subnet.

    ``num_heads`` is the largest choice; the others are settings as they are.

    Raises:
        ValueError: Its layers differ, or it has no layers.
    """
    layers = set(spec.active)
    if len(layers) != 1:
        raise ValueError("the layers of the network differ" if layers else "the network has no layers")
    (layer,) = layers
    elastic = {name: getattr(spec, name) for name in NETWORK}
    return {
        "image_size": spec.image_size, "num_classes": spec.num_classes, "patch_sizes": (spec.patch_size,),
        "embed_dim": spec.embed_dim, "depth": spec.depth, "qkv_dim": layer.qkv_dim, "mlp_dim": layer.mlp_dim,
        "elastic": elastic | {"head_dim": layer.head_dim, "softmax_scale": layer.softmax_scale},
        "num_heads": layer.num_heads,
    }  # fmt: skip


def swap_into(layers: np.ndarray, identity: np.ndarray, active: np.ndarray, empty: Sequence[int]) -> None:
    """Move layers to the positions that networks of their depth have, in place; most layers stay where they are.

    Args:
        layers: Genes [K, L, 3].
        identity: Which positions are identities [K, L].
        active: Which positions hold a layer, by depth [L + 1, L].
        empty: Genes of an identity.
    """
    keep = active[(~identity).sum(1)]
    missing, surplus = keep & identity, ~keep & ~identity  # equally many in each row
    layers[missing] = layers[surplus]
    layers[surplus] = empty

"""Reorder the units of a network without changing its outputs.

The residual stream has one order of channels in the whole network: every tensor that reads or writes it is permuted.
Heads, the channels of each head, and the hidden units of an MLP have an order per layer. The logits are equal up to
rounding, as sums have another order. A permutation and its inverse restore every tensor bitwise.
"""
# D embed_dim, a = qkv_dim / 3, m mlp_dim

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vitas_ds.elastic.order import LayerOrder, Order, check_order
from vitas_ds.models.vit import VisionTransformer

EMBEDDING = {  # tensors outside of the layers: the dimension of the residual stream
    "cls_token": 2, "pos_embed": 2, "patch_embed.proj.weight": 0, "patch_embed.proj.bias": 0, "norm.weight": 0,
    "norm.bias": 0, "head.weight": 1, "head_dist.weight": 1,
}  # fmt: skip
UNCHANGED = ("head.bias", "head_dist.bias")
LAYER: dict[str, tuple[str, ...]] = {  # tensors of a layer: the axis of each dimension
    "norm1.weight": ("embedding",), "norm1.bias": ("embedding",), "norm2.weight": ("embedding",),
    "norm2.bias": ("embedding",), "ls1.gamma": ("embedding",), "ls2.gamma": ("embedding",),
    "attn.qkv.weight": ("qkv", "embedding"), "attn.qkv.bias": ("qkv",),
    "attn.proj.weight": ("embedding", "v"), "attn.proj.bias": ("embedding",),
    "mlp.fc1.weight": ("mlp", "embedding"), "mlp.fc1.bias": ("mlp",),
    "mlp.fc2.weight": ("embedding", "mlp"), "mlp.fc2.bias": ("embedding",),
}  # fmt: skip


def reorder(model: VisionTransformer, order: Order) -> None:
    """Reorder the units of a network in place.

    Raises:
        UserError: The order does not fit the network.
    """
    check_order(order, model.spec, "order")
    model.load_state_dict(reordered(model.state_dict(), order))


def restore(model: VisionTransformer, order: Order) -> None:
    """Undo ``reorder`` in place: every tensor is bitwise the one before it."""
    reorder(model, order.inverse())


def reordered(tensors: Mapping[str, Tensor], order: Order) -> dict[str, Tensor]:
    """Return the reordered tensors of a network, named as in ``VisionTransformer``."""
    embedding = torch.tensor(order.embedding)
    layers = [_axes(layer, embedding) for layer in order.layers]
    found = {}
    for name, tensor in tensors.items():
        if name in UNCHANGED:
            found[name] = tensor
        elif name in EMBEDDING:
            found[name] = tensor.index_select(EMBEDDING[name], embedding.to(tensor.device))
        else:
            _, layer, kind = name.split(".", 2)
            for dim, axis in enumerate(LAYER[kind]):
                tensor = tensor.index_select(dim, layers[int(layer)][axis].to(tensor.device))
            found[name] = tensor
    return found


def _axes(layer: LayerOrder, embedding: Tensor) -> dict[str, Tensor]:
    """Return the permutation of each dimension of a layer's tensors."""
    qk, v, mlp = (torch.tensor(p) for p in (layer.qk, layer.v, layer.mlp))
    a = len(v)
    return {"embedding": embedding, "qkv": torch.cat([qk, a + qk, 2 * a + v]), "v": v, "mlp": mlp}

"""Costs of networks, computed from their widths, for one network or for many at once.

``macs`` counts the exact multiply-accumulates of one image (class token, classifier and both products of attention
included): half the FLOPs that torch's FlopCounterMode reports. ``vitas_flops`` is the count of the first release. It
leaves out the class token and multiplies the classifier by the number of patches. The published budgets use this count.
Importing this module does not import torch.
"""
# K networks, L positions, n patches, N tokens (patches and prefix tokens), D embed_dim, a = qkv_dim / 3, m mlp_dim

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import SubnetSpec


def macs(table: WidthTable) -> np.ndarray:
    """Count the exact multiply-accumulates of one image, int64 [K]."""
    n, D = (table.image_size // table.patch_size) ** 2, table.embed_dim
    patch_embed = n * 3 * table.patch_size**2 * D
    return patch_embed + _layer_macs(table, table.num_tokens).sum(1) + table.classifiers * D * table.num_classes


def layer_macs(table: WidthTable) -> np.ndarray:
    """Count the multiply-accumulates of each position, int64 [K, L], 0 at an identity."""
    return _layer_macs(table, table.num_tokens)


def _layer_macs(table: WidthTable, tokens: np.ndarray) -> np.ndarray:
    N, D, a = tokens[:, None], table.embed_dim[:, None], table.qkv_dim // 3
    return N * D * table.qkv_dim + 2 * N * N * a + N * a * D + 2 * N * D * table.mlp_dim


def vitas_flops(table: WidthTable) -> np.ndarray:
    """Count FLOPs as the first release does, int64 [K]. The published budgets ("1.3G") use this count."""
    n, D = (table.image_size // table.patch_size) ** 2, table.embed_dim
    patch_embed = n * 3 * table.patch_size**2 * D
    return patch_embed + _layer_macs(table, n).sum(1) + n * D * table.num_classes


def layer_params(table: WidthTable) -> np.ndarray:
    """Count the parameters of each position, int64 [K, L]: two norms, q/k/v, projection and MLP, all with biases.

    A LayerScale adds two vectors.
    """
    D, a, m = table.embed_dim[:, None], table.qkv_dim // 3, table.mlp_dim
    norms = 4 * D + 2 * D * table.layer_scale
    count = norms + (D + 1) * table.qkv_dim + (a + 1) * D + (D + 1) * m + (m + 1) * D
    return count * (table.num_heads > 0)


def params(table: WidthTable) -> np.ndarray:
    """Count all parameters, int64 [K]: patch embedding, prefix tokens, positions, layers, norm, classifiers."""
    D = table.embed_dim
    stem = (3 * table.patch_size**2 + 1) * D + table.prefix_tokens * D + table.num_tokens * D
    head = 2 * D + table.classifiers * (D + 1) * table.num_classes
    return stem + layer_params(table).sum(1) + head


def layer_activations(table: WidthTable) -> np.ndarray:
    """Compute the bytes saved for the backward pass at each position, for one float32 image, int64 [K, L].

    The two norms save input, output, mean and standard deviation. Attention saves q, k, v, its output and one number
    per head and token: the fused kernels do not save the attention map. The MLP saves its hidden channels before GELU.
    A LayerScale saves both branches.
    """
    N, D = table.num_tokens[:, None], table.embed_dim[:, None]
    floats = N * ((6 if table.layer_scale else 4) * D + 4 + 4 * (table.qkv_dim // 3) + table.num_heads + table.mlp_dim)
    return 4 * floats * (table.num_heads > 0)


def activations(table: WidthTable) -> np.ndarray:
    """Compute the peak activation memory of training in bytes, int64 [K]: one float32 image, no recomputation.

    The peak is at the start of the backward pass. It includes everything saved for it: patches, layers and the final
    norm of the class token. Weights, gradients and the workspaces of kernels are extra. A batch of B images
    takes B times as much, half precision about half.
    """
    n, D = (table.image_size // table.patch_size) ** 2, table.embed_dim
    stem_and_head = n * 3 * table.patch_size**2 + 2 * D + 2
    return 4 * stem_and_head + layer_activations(table).sum(1)


COSTS: Mapping[str, Callable[[WidthTable], np.ndarray]] = {
    "macs": macs, "vitas_flops": vitas_flops, "params": params, "activations": activations,
}  # fmt: skip
"""The counted costs by name, each int64 [K]."""


def spec_macs(spec: SubnetSpec) -> int:
    """Count the exact multiply-accumulates of one spec."""
    return int(macs(WidthTable.from_specs([spec]))[0])


def spec_params(spec: SubnetSpec) -> int:
    """Count the parameters of one spec."""
    return int(params(WidthTable.from_specs([spec]))[0])

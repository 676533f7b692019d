"""What a net costs, counted from its widths alone, for one net or a hundred thousand at once. No torch.

``macs`` are exact multiply-accumulates of one image (class token and classifier counted once; attention's two
products included): what torch's FlopCounterMode counts, halved. ``vitas_flops`` is the first release's counter, which
leaves the class token out and multiplies the classifier by the number of patches: the published budgets are in it.
"""
# K nets, L positions, n patches, N = n + 1 tokens, D embedding width, a q width, m MLP width

from __future__ import annotations

import numpy as np

from vitas_ds.arch.space import Columns, columns_of
from vitas_ds.arch.spec import SubnetSpec


def macs(table: Columns) -> np.ndarray:
    """[K] exact multiply-accumulates of one image."""
    n = (table.image_size // table.patch) ** 2
    layers = _layer_macs(table, n + 1).sum(1)
    return n * 3 * table.patch**2 * table.embed + layers + table.embed * table.num_classes


def layer_macs(table: Columns) -> np.ndarray:
    """[K, L] multiply-accumulates of each position, 0 at an identity."""
    return _layer_macs(table, (table.image_size // table.patch) ** 2 + 1)


def _layer_macs(table: Columns, tokens: np.ndarray) -> np.ndarray:
    N, D, a = tokens[:, None], table.embed[:, None], table.qkv // 3
    return N * D * table.qkv + 2 * N * N * a + N * a * D + 2 * N * D * table.mlp


def vitas_flops(table: Columns) -> np.ndarray:
    """[K] the first release's count, in which the published budgets ("1.3G") are stated."""
    n = (table.image_size // table.patch) ** 2
    layers = _layer_macs(table, n).sum(1)
    return n * 3 * table.patch**2 * table.embed + layers + n * table.embed * table.num_classes


def layer_params(table: Columns) -> np.ndarray:
    """[K, L] parameters of each position: two norms, q/k/v, projection, MLP, all with biases."""
    D, a, m = table.embed[:, None], table.qkv // 3, table.mlp
    count = 4 * D + (D + 1) * table.qkv + (a + 1) * D + (D + 1) * m + (m + 1) * D
    return count * (table.heads > 0)


def params(table: Columns) -> np.ndarray:
    """[K] parameters: patch embedding, class token, position embedding, layers, final norm, classifier."""
    n = (table.image_size // table.patch) ** 2
    stem = (3 * table.patch**2 + 1) * table.embed + table.embed + (n + 1) * table.embed
    head = 2 * table.embed + (table.embed + 1) * table.num_classes
    return stem + layer_params(table).sum(1) + head


def layer_activations(table: Columns) -> np.ndarray:
    """[K, L] bytes that one image's forward pass keeps of each position for the backward pass, in float32.

    Two norms keep input, output, mean and deviation; attention keeps q, k, v, its output and one number for each head
    and token (the fused kernels; the map itself is not kept); the MLP keeps its hidden channels before and after GELU.
    """
    N, D = (table.image_size // table.patch[:, None]) ** 2 + 1, table.embed[:, None]
    floats = N * (4 * D + 4 + 4 * (table.qkv // 3) + table.heads + 2 * table.mlp)
    return 4 * floats * (table.heads > 0)


def activations(table: Columns) -> np.ndarray:
    """[K] peak activation memory of training, in bytes: one image, float32, nothing recomputed.

    It is what the forward pass keeps for the backward pass (patches, layers, the last layer's output, the final norm),
    at its largest where one turns into the other. Weights, gradients and a kernel's own workspace come on top.
    A batch of B takes B times as much, half precision about half.
    """
    n = (table.image_size // table.patch) ** 2
    ends = n * 3 * table.patch**2 + (n + 1) * table.embed + table.embed + 2
    return 4 * ends + layer_activations(table).sum(1)


def spec_macs(spec: SubnetSpec) -> int:
    """Exact multiply-accumulates of one spec."""
    return int(macs(columns_of([spec]))[0])


def spec_params(spec: SubnetSpec) -> int:
    """Parameters of one spec."""
    return int(params(columns_of([spec]))[0])

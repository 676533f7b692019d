"""Published scores of untrained networks. Higher is better."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.models.layers import init_weights
from vitas_ds.models.vit import VisionTransformer

ATTENTION = "attn."


def dss(spec: SubnetSpec, seed: int = 0) -> float:
    """Return the score of TF-TAS (arXiv 2203.12217): diversity of attention plus saliency of the other matrices.

    All weights are replaced by their absolute values, the image is all ones, and the summed outputs are backpropagated.
    Attention matrices contribute the product of the nuclear norms of weight and gradient, others the sum of |w g|.
    """
    net = _new(spec, seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    net(torch.ones(1, 3, spec.image_size, spec.image_size)).sum().backward()
    total = 0.0
    for name, weight, grad in _matrices(net):
        if ATTENTION in name:
            total += (torch.linalg.matrix_norm(weight, "nuc") * torch.linalg.matrix_norm(grad, "nuc")).item()
        else:
            total += (weight * grad).abs().sum().item()
    return total


def prenas(spec: SubnetSpec, images: Tensor, labels: Tensor, seed: int = 0) -> float:
    """Return the score of PreNAS (arXiv 2304.14636): sum over the blocks of ``|w g| / (|w| |g|)``, all summed.

    Args:
        spec: The network.
        images: [B, 3, H, W].
        labels: [B].
        seed: Seed of the initial weights.
    """
    net = _new(spec, seed)
    F.cross_entropy(net(images), labels).backward()
    total = 0.0
    for i in range(spec.depth):
        block = [(w, g) for name, w, g in _matrices(net) if name.startswith(f"blocks.{i}.")]
        product, weights, grads = (
            sum(term(w, g).abs().sum().item() for w, g in block)
            for term in (lambda w, g: w * g, lambda w, _: w, lambda _, g: g)
        )
        total += product / (weights * grads)
    return total


def _new(spec: SubnetSpec, seed: int) -> VisionTransformer:
    net = VisionTransformer(spec)
    init_weights(net, seed, None)
    return net


def _matrices(net: VisionTransformer) -> list[tuple[str, Tensor, Tensor]]:
    named = net.named_parameters()
    return [(name, p.detach(), p.grad) for name, p in named if p.ndim == 2 and p.grad is not None]

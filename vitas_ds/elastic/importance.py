"""Measure the importance of every unit of a network on images.

- Heads, channels of q, k and v, hidden units of the MLP: first-order Taylor. A unit is scaled by a mask m = 1; its
  score is the mean over images of |dL/dm|, an estimate of the change in loss without the unit. dL/dm needs no hooks:
  it is the sum of weight times gradient over the weights that read the unit (for q: that write it).
- Channels of the residual stream: activations. For each norm, the root of the sum over images of the squared mean
  over tokens of |output|; then the sum over all norms.
- Layers: mean over tokens of 1 - cos(input, output).

All sums are in float64. The loss is cross-entropy, or the distance between two views of an image: the distance of a
network to itself has no gradient.
"""
# B images of a pass (1, or 2 views), N tokens, D embed_dim, L layers, h num_heads, a = qkv_dim / 3, m mlp_dim

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitas_ds.data.reader import Batch
from vitas_ds.elastic.scores import LayerScores, Scores, Values
from vitas_ds.elastic.views import two_views
from vitas_ds.models.plan import CLASSIFIERS
from vitas_ds.models.vit import Block, VisionTransformer

Loss = Literal["labels", "views"]
Progress = Callable[[int], None]


def measure(
    model: VisionTransformer, batches: Iterable[Batch], loss: Loss, weights: str, data: str,
    progress: Progress | None = None,
) -> Scores:  # fmt: skip
    """Return the importance of every unit.

    Args:
        model: The network in evaluation mode, on the device of the images.
        batches: Images and labels.
        loss: ``labels``: cross-entropy. ``views``: 1 - cosine of the features of two views.
        weights: SHA-256 of the weights, for the result.
        data: SHA-256 of names and labels of the images, for the result.
        progress: Called with the number of finished images.
    """
    net = model if loss == "labels" else features_of(model)
    net.requires_grad_(True)
    sums, done = Sums(net), 0
    for batch in batches:
        for image, label in zip(batch.images, batch.labels, strict=True):
            image = image.to(net.pos_embed.dtype)
            sums.add(image[None] if loss == "labels" else two_views(image, seed=done), label)
            done += 1
        if progress:
            progress(done)
    return sums.scores(weights, data, loss)


def features_of(model: VisionTransformer) -> VisionTransformer:
    """Return a copy that outputs the input of the classifiers, [B, D]."""
    net, D = copy.deepcopy(model), model.spec.embed_dim
    for name in CLASSIFIERS[: model.spec.classifiers]:
        head = nn.Linear(D, D).to(model.pos_embed)
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
        setattr(net, name, head)
    return net


class Sums:
    """Sums over images."""

    def __init__(self, net: VisionTransformer) -> None:
        self.net, self.images, spec = net, 0, net.spec
        self.blocks = cast(list[Block], list(net.blocks))
        zeros = partial(torch.zeros, dtype=torch.float64, device=net.pos_embed.device)
        self.norms = zeros((2 * spec.depth + 1, spec.embed_dim))  # squares of the mean |output|
        self.change = zeros((spec.depth, 3))  # of layer, attention, MLP
        self.taylor = [
            {name: zeros((size,)) for name, size in (
                ("heads", x.num_heads), ("qk", x.attn_dim), ("v", x.attn_dim), ("mlp", x.mlp_dim),
            )}
            for x in spec.active
        ]  # fmt: skip

    def add(self, images: Tensor, label: Tensor) -> None:
        """Add an image [1, 3, H, W], or two views of one [2, 3, H, W]."""
        self.net.zero_grad(set_to_none=True)
        logits = self.net.watch(images, self._see)
        if len(images) == 1:
            F.cross_entropy(logits, label[None]).backward()
        else:
            (1 - F.cosine_similarity(logits[0], logits[1].detach(), dim=0)).backward()
        for sums, block in zip(self.taylor, self.blocks, strict=True):
            for name, values in taylor(block).items():
                sums[name] += values.abs()
        self.images += 1

    @torch.no_grad()
    def _see(self, i: int, inputs: tuple[Any, ...], output: Any) -> None:
        """Add the activations of a layer, or of the head (i = -1)."""
        x, branch = inputs[:2]
        before = x if branch is None else x + branch
        if i == -1:
            self._add_norm(-1, self.net.norm(self._read(before)))
        elif i > 0:
            block, (middle, branch) = self.blocks[i - 1], output
            after = middle + branch
            self._add_norm(2 * i - 2, block.norm1(before[0]))
            self._add_norm(2 * i - 1, block.norm2(middle[0]))
            pairs = (before, after), (before, middle), (middle, after)
            self.change[i - 1] += torch.stack([_distance(*pair) for pair in pairs])

    def _read(self, x: Tensor) -> Tensor:
        """Return the input of the classifiers [B, tokens, D] from the residual stream [1, B, N, D]."""
        spec = self.net.spec
        patches = x[0, :, spec.prefix_tokens :].mean(1, keepdim=True)
        return patches if spec.pool == "patches" else x[0, :, : spec.classifiers]

    def _add_norm(self, i: int, output: Tensor) -> None:
        self.norms[i] += output.double().abs().mean((0, 1)).square()

    def scores(self, weights: str, data: str, loss: str) -> Scores:
        """Return the result."""
        change = (self.change / self.images).tolist()
        layers = tuple(
            LayerScores(**{name: _values(x / self.images) for name, x in sums.items()}, change=row[0],
                        attn_change=row[1], mlp_change=row[2])
            for sums, row in zip(self.taylor, change, strict=True)
        )  # fmt: skip
        return Scores(weights, data, self.images, loss, _values(self.norms.sqrt().sum(0)), layers)


def taylor(block: Block) -> dict[str, Tensor]:
    """Return dL/dm of the units of a layer, float64, from the gradients of its weights."""
    attn, mlp, a = block.attn, block.mlp, block.layer.attn_dim
    v = _weight_times_gradient(attn.proj.weight).sum(0)
    q = _weight_times_gradient(attn.qkv.weight)[:a].sum(1) + _weight_times_gradient(attn.qkv.bias)[:a]
    return {
        "heads": v.view(block.layer.num_heads, -1).sum(1), "qk": q, "v": v,
        "mlp": _weight_times_gradient(mlp.fc2.weight).sum(0),
    }  # fmt: skip


def _weight_times_gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "every weight has a gradient"
    return weight.detach().double() * weight.grad.double()


def _distance(before: Tensor, after: Tensor) -> Tensor:
    """Return the mean over tokens of 1 - cos, float64."""
    return 1 - F.cosine_similarity(before.double(), after.double(), dim=-1).mean()


def _values(x: Tensor) -> Values:
    return tuple(x.tolist())

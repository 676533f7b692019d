"""Importance against finite differences of masks, and against activations of timm's network with hooks."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.timm_networks import make
from vitas_ds.data.reader import Batch
from vitas_ds.elastic.importance import features_of, measure
from vitas_ds.elastic.views import two_views
from vitas_ds.export.from_timm import convert

FAMILIES = ["deit", "distilled deit", "dinov2 with registers", "vit with fc_norm"]
STEP = 1e-6


def network(family: str):
    reference = make(family).double()
    return reference, convert(reference, reference.state_dict())


def batches() -> list[Batch]:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = torch.arange(3)
    return [Batch(images[:2], labels[:2], 0), Batch(images[2:], labels[2:], 0)]


def losses(model, loss: str, fixed) -> torch.Tensor:
    """Return the loss of each image. ``fixed`` has the features of the second view, without a mask."""
    images = torch.cat([batch.images for batch in batches()])
    with torch.no_grad():
        if loss == "labels":
            return F.cross_entropy(model(images), torch.arange(3), reduction="none")
        views = torch.stack([two_views(image, i) for i, image in enumerate(images)])
        return 1 - F.cosine_similarity(features_of(model)(views[:, 0]), fixed(views[:, 1]))


def by_differences(model, loss: str, fixed, scale) -> float:
    """Return the mean over images of |dL/dm|; ``scale(1 + step)`` sets the mask m."""
    scale(1 + STEP)
    above = losses(model, loss, fixed)
    scale((1 - STEP) / (1 + STEP))
    below = losses(model, loss, fixed)
    scale(1 / (1 - STEP))
    return ((above - below) / (2 * STEP)).abs().mean().item()


def scaled(*tensors):
    """Return a function that scales views of weights in place."""

    def scale(factor: float) -> None:
        with torch.no_grad():
            for tensor in tensors:
                tensor.mul_(factor)

    return scale


@pytest.mark.parametrize("loss", ["labels", "views"])
@pytest.mark.parametrize("family", FAMILIES)
def test_taylor_is_the_derivative_with_respect_to_a_mask(family, loss):
    _, model = network(family)
    difference = partial(by_differences, model, loss, features_of(model))
    scores = measure(model, batches(), loss, "w", "d")
    assert (scores.images, scores.loss, scores.weights, scores.data) == (3, loss, "w", "d")
    model.requires_grad_(False)
    for block, layer in zip(model.blocks, scores.layers, strict=True):
        attn, d = block.attn, block.layer.head_dim
        qkv, bias, proj, fc2 = attn.qkv.weight, attn.qkv.bias, attn.proj.weight, block.mlp.fc2.weight
        for unit in (0, 7, 100):
            assert math.isclose(difference(scaled(fc2[:, unit])), layer.mlp[unit], rel_tol=1e-4)
        for head in range(3):
            columns = proj[:, head * d : (head + 1) * d]
            assert math.isclose(difference(scaled(columns)), layer.heads[head], rel_tol=1e-4)
        for c in (0, 20, 47):
            assert math.isclose(difference(scaled(proj[:, c])), layer.v[c], rel_tol=1e-4)
            found = difference(scaled(qkv[c], bias[c : c + 1]))
            assert math.isclose(found, layer.qk[c], rel_tol=1e-4, abs_tol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_those_of_timm(family):
    """Norms by hand from hooks on the modules of timm."""
    reference, model = network(family)
    scores = measure(model, batches(), "labels", "w", "d")
    outputs: dict[str, torch.Tensor] = {}
    for name, module in reference.named_modules():
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out))
    total, change = torch.zeros(7, 48, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for image in torch.cat([batch.images for batch in batches()]):
        with torch.no_grad():
            reference(image[None])
        names = ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2"]
        last = outputs["fc_norm"][:, None] if family == "vit with fc_norm" else outputs["norm"][:, : _read(family)]
        for i, out in enumerate([*(outputs[name] for name in names), last]):
            total[i] += out[0].abs().mean(0) ** 2
        one, two = outputs["blocks.0"], outputs["blocks.1"]
        change[1] += 1 - F.cosine_similarity(one, two, dim=-1).mean()
    torch.testing.assert_close(torch.tensor(scores.embedding, dtype=torch.float64), total.sqrt().sum(0))
    assert math.isclose(scores.layers[1].change, change[1].item() / 3, rel_tol=1e-9)


def _read(family: str) -> int:
    return 2 if family == "distilled deit" else 1


def test_a_useless_unit_has_no_importance():
    _, model = network("deit")
    with torch.no_grad():
        model.blocks[0].mlp.fc2.weight[:, 5] = 0
        model.blocks[1].attn.proj.weight[:, 16:32] = 0  # head 1
        model.pos_embed[..., 3] = model.cls_token[..., 3] = 0
    scores = measure(model, batches(), "labels", "w", "d")
    assert scores.layers[0].mlp[5] == 0 and scores.layers[1].heads[1] == 0 and scores.layers[1].v[16:32] == (0.0,) * 16
    assert min(scores.layers[0].heads) > 0 and min(scores.embedding) > 0


def test_the_distance_of_a_network_to_itself_has_no_gradient():
    """Why two views are needed: with equal views, every score is 0 up to rounding."""
    _, model = network("deit")
    net = features_of(model).requires_grad_(True)
    image = batches()[0].images[:1]
    output = net(image)
    (1 - F.cosine_similarity(output[0], output[0].detach(), dim=0)).backward()
    assert max(p.grad.abs().max() for p in net.blocks.parameters()) < 1e-12

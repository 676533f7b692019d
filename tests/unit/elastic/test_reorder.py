"""Reordering changes no logit, and its inverse restores every tensor bitwise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.timm_networks import FAMILIES, make
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.elastic.order import LayerOrder, Order
from vitas_ds.elastic.reorder import reorder, reordered, restore
from vitas_ds.errors import UserError
from vitas_ds.export.from_timm import convert
from vitas_ds.models.vit import VisionTransformer


def random_order(spec: SubnetSpec, seed: int) -> Order:
    rng = np.random.default_rng(seed)

    def layer(x: LayerSpec) -> LayerOrder:
        heads = rng.permutation(x.num_heads)
        inside = [[h * x.head_dim + rng.permutation(x.head_dim) for h in heads] for _ in range(2)]
        qk, v = (tuple(np.concatenate(p).tolist()) for p in inside)
        return LayerOrder(qk, v, tuple(rng.permutation(x.mlp_dim).tolist()))

    return Order(tuple(rng.permutation(spec.embed_dim).tolist()), tuple(layer(x) for x in spec.active))


def logits(model: VisionTransformer) -> torch.Tensor:
    size = model.spec.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model(images.to(model.pos_embed.dtype))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 2**32))
def test_logits_do_not_change_and_the_inverse_restores_every_tensor(family, seed):
    reference = make(family).double()
    model = convert(reference, reference.state_dict())
    before, expected = {k: v.clone() for k, v in model.state_dict().items()}, logits(model)
    order = random_order(model.spec, seed)
    reorder(model, order)
    assert (logits(model) - expected).abs().max() < 1e-12 * max(1, expected.abs().max().item())
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    zero = {name for name, value in before.items() if not value.any()}
    assert set(changed) | zero == set(before) - {"head.bias", "head_dist.bias"}
    restore(model, order)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_logits_are_equal_up_to_rounding(family):
    reference = make(family)
    model = convert(reference, reference.state_dict())
    expected = logits(model)
    reorder(model, random_order(model.spec, 3))
    assert (logits(model) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forgotten_tensor_changes_the_logits(family):
    reference = make(family).double()
    model = convert(reference, reference.state_dict())
    before, expected = model.state_dict(), logits(model)
    before = {name: value.clone() for name, value in before.items()}
    after = reordered(before, random_order(model.spec, 3))
    for name in after:
        if torch.equal(after[name], before[name]):
            continue
        model.load_state_dict(after | {name: before[name]})
        assert (logits(model) - expected).abs().max() > 1e-6, name


def test_orders_that_do_not_fit_are_refused():
    model = VisionTransformer(SubnetSpec(32, 8, 4, 10, (LayerSpec(2, 12, 3),)))
    good = LayerOrder((2, 3, 0, 1), (3, 2, 0, 1), (2, 0, 1))
    reorder(model, Order((3, 1, 0, 2), (good,)))
    for embedding, layer, message in (
        ((3, 1, 0), good, "not permutations"),
        ((3, 1, 0, 0), good, "not permutations"),
        ((3, 1, 0, 2), LayerOrder((2, 3, 0, 1), (3, 2, 0, 1), (2, 0)), "not permutations"),
        ((3, 1, 0, 2), LayerOrder((2, 0, 3, 1), (3, 2, 0, 1), (2, 0, 1)), "do not stay together"),
        ((3, 1, 0, 2), LayerOrder((0, 1, 2, 3), (3, 2, 0, 1), (2, 0, 1)), "do not stay together"),
    ):
        with pytest.raises(UserError, match=message):
            reorder(model, Order(embedding, (layer,)))
    with pytest.raises(UserError, match="not permutations"):
        reorder(model, Order((3, 1, 0, 2), ()))

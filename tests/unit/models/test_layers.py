"""Shared functions (patches, attention, drop path, initial weights) against torch and formulas."""

import pytest
import torch
from torch import nn

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models import net
from vitas_ds.models.flat import named_tensors
from vitas_ds.models.layers import drop_path, init_weights, pad_to, patchify
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer

SPEC = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192), LayerSpec(4, 192, 96)))


@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("multiple", [1, 32])
def test_patch_embedding_is_a_convolution(size, multiple):
    conv = nn.Conv2d(3, 7, size, size)
    images = torch.randn(2, 3, 32, 32)
    cls_token, pos_embed = torch.randn(1, 1, 7), torch.randn(1, (32 // size) ** 2 + 1, 7)
    expected = conv(images).flatten(2).transpose(1, 2)
    expected = torch.cat([cls_token.expand(2, -1, -1), expected], 1) + pos_embed
    weight = pad_to(conv.weight.flatten(1), -(-conv.weight[0].numel() // multiple) * multiple)
    packed = {"weight": weight[None], "bias": conv.bias[None], "cls_token": cls_token, "pos_embed": pos_embed}
    torch.testing.assert_close(net.stem(packed, images, size)[0], expected, rtol=1e-5, atol=1e-5)
    assert patchify(images, size).shape == (2, (32 // size) ** 2, 3 * size**2)


def test_drop_path_drops_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(1, 4000, 2, 3)
    y = drop_path(x, 0.25)
    kept = y[..., 0, 0] != 0
    assert torch.equal(y[kept], x[kept] / 0.75)
    assert (y[~kept] == 0).all()
    assert abs(kept.float().mean().item() - 0.75) < 0.03
    assert drop_path(x, 0.0) is x


def test_drop_path_rises_linearly_over_the_layers():
    spec = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192),) * 5)
    rates = [block.drop_path_rate for block in VisionTransformer(spec, drop_path_rate=0.2).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("std", [0.02, 0.1, None])
@pytest.mark.parametrize("make", [lambda: VisionTransformer(SPEC), lambda: Supernet(SearchSpace(depth=2), "ordinal")])
def test_initial_weights(make, std):
    model = make()
    init_weights(model, 0, **({} if std == 0.02 else {"std": std}))  # 0.02 is the default
    for name, weight in named_tensors(model).items():
        value = weight.detach()
        if value.ndim == 4:
            bound = value[0].numel() ** -0.5  # as in nn.Conv2d
            assert value.abs().max() <= bound
            assert value.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        elif value.ndim == 2:
            expected = value.shape[1] ** -0.5 if std is None else std
            assert value.mean().abs() < 0.075 * expected, name
            assert value.std() == pytest.approx(expected, rel=0.04), name
        elif "norm" in name and name.endswith("weight"):
            assert (value == 1).all()
        else:  # biases, class token, position embedding
            assert (value == 0).all(), name


def test_initial_weights_do_not_depend_on_order_or_global_random_state():
    first, second = VisionTransformer(SPEC), VisionTransformer(SPEC)
    init_weights(first, seed=5)
    torch.randn(3)
    second._modules = dict(reversed(second._modules.items()))
    init_weights(second, seed=5)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_parameters_of_the_same_shape_get_different_values():
    model = VisionTransformer(SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192),) * 2))
    init_weights(model, seed=0)
    for (name, a), b in zip(model.blocks[0].named_parameters(), model.blocks[1].parameters(), strict=True):
        if a.ndim == 2:
            assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()) < 0.1, name


def test_registers_differ_and_layer_scale_starts_near_zero():
    model = VisionTransformer(SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192),), prefix_tokens=3, layer_scale=True))
    init_weights(model, 0)
    tokens = model.cls_token[0]
    assert not tokens[0].any() and not torch.equal(tokens[1], tokens[2]) and 0.01 < tokens[1:].std() < 0.03
    assert (model.blocks[0].ls1.gamma == 1e-5).all() and (model.blocks[0].ls2.gamma == 1e-5).all()

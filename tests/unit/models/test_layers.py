"""Shared functions (patches, attention, drop path, initial weights) against torch and formulas."""

import pytest
import torch
from torch import nn

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.models import layers
from vitas_ds.models.layers import attend, attention, drop_path, embed_patches, init_weights, patchify
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer

SPEC = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192), LayerSpec(4, 192, 96)))


@pytest.mark.parametrize("size", [4, 8, 16])
def test_patch_embedding_is_a_convolution(size):
    conv = nn.Conv2d(3, 7, size, size)
    images = torch.randn(2, 3, 32, 32)
    expected = conv(images).flatten(2).transpose(1, 2)
    cls_token, pos_embed = torch.zeros(1, 1, 7), torch.zeros(1, (32 // size) ** 2 + 1, 7)
    tokens = embed_patches(patchify(images, size), conv.weight, conv.bias, cls_token, pos_embed)
    torch.testing.assert_close(tokens[:, 1:], expected, rtol=1e-5, atol=1e-5)
    assert (tokens[:, 0] == 0).all()
    cls_token, pos_embed = torch.randn(1, 1, 7), torch.randn(pos_embed.shape)
    placed = embed_patches(patchify(images, size), conv.weight, conv.bias, cls_token, pos_embed)
    torch.testing.assert_close(placed, torch.cat([cls_token.expand(2, -1, -1), tokens[:, 1:]], 1) + pos_embed)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_matches_the_formula(scale):
    heads, a = 3, 12
    qkv = torch.randn(2, 5, 3 * a)
    out = []
    for h in range(heads):
        q, k, v = (qkv[..., part * a + h * 4 : part * a + (h + 1) * 4] for part in range(3))
        out.append((q @ k.mT * (4**-0.5 if scale is None else scale)).softmax(-1) @ v)
    torch.testing.assert_close(attention(qkv, heads, scale), torch.cat(out, -1))


def test_drop_path_drops_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    y = drop_path(x, 0.25, training=True)
    kept = y[:, 0, 0] != 0
    assert torch.equal(y[kept], x[kept] / 0.75)
    assert (y[~kept] == 0).all()
    assert abs(kept.float().mean().item() - 0.75) < 0.03
    assert drop_path(x, 0.25, training=False) is x
    assert drop_path(x, 0.0, training=True) is x


def test_drop_path_rises_linearly_over_the_layers():
    spec = SubnetSpec(32, 8, 48, 10, (LayerSpec(2, 96, 192),) * 5)
    rates = [block.drop_path_rate for block in VisionTransformer(spec, drop_path_rate=0.2).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("std", [0.02, 0.1, None])
@pytest.mark.parametrize("make", [lambda: VisionTransformer(SPEC), lambda: Supernet(SearchSpace(depth=2), "ordinal")])
def test_initial_weights(make, std):
    model = make()
    init_weights(model, 0, **({} if std == 0.02 else {"std": std}))  # 0.02 is the default
    for name, weight in model.named_parameters():
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


@pytest.mark.parametrize("chunk", [1, 60, 2**20])  # one head, two heads, all at once
@pytest.mark.parametrize("queries", [1, 5])
def test_bf16_attention_on_cpus_matches_float64(chunk, queries, monkeypatch):
    """Output and gradients, within the precision of bf16's 8 bits."""
    monkeypatch.setattr(layers._Bf16Attention, "CHUNK_ELEMENTS", chunk)
    heads, a = 3, 12
    q, k, v = (torch.randn(2, n, a, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (queries, 6, 7))
    v = v[:, :6]
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        parts = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        y = attend(*parts, heads, 0.5)
        assert ("Bf16Attention" in str(y.grad_fn.next_functions[0][0].next_functions)) == (dtype == torch.bfloat16)
        (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape)).sum().backward()
        results.append([y.detach().double(), *(x.grad.double() for x in parts)])
    for expected, found in zip(*results, strict=True):
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("width", [1, 3, 5, 9, 16, 21, 30])  # of a head
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_of_narrow_and_odd_heads_matches_the_formula_with_gradients(width, scale):
    found = []
    for formula in (False, True):
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(2, n, 3 * width, generator=generator, requires_grad=True) for n in (4, 7, 7))  # 3 heads
        if formula:
            heads = [x.unflatten(-1, (3, -1)).transpose(1, 2) for x in (q, k, v)]
            maps = (heads[0] @ heads[1].mT * (width**-0.5 if scale is None else scale)).softmax(-1)
            y = (maps @ heads[2]).transpose(1, 2).flatten(2)
        else:
            y = attend(q, k, v, 3, scale)
        found.append((y, *torch.autograd.grad(y.square().sum(), (q, k, v))))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)

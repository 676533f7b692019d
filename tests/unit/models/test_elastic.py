"""Each elastic layer against the plain layer of torch with the sliced weights, selected by index lists."""

import pytest
import torch
from torch import nn

from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec
from vitas_ds.models import matmul
from vitas_ds.models.channels import channel_slices
from vitas_ds.models.elastic import ElasticAttention, ElasticLinear, ElasticMlp, ElasticNorm, ElasticStem, take_slices
from vitas_ds.models.layers import patchify
from vitas_ds.models.sliced import Linear, linear

SPACE = SearchSpace(
    image_size=16, num_classes=5, patch_sizes=(4, 8), embed_dim=20, depth=1, num_heads=(1, 2), qkv_dim=60, mlp_dim=30
)
SIDES = ("left", "right", "cycle")
GRID = [(side, i) for side in SIDES for i in (0, 2, 3, 6, 9)]


@pytest.fixture(params=[False, True], ids=["torch", "onednn"], autouse=True)
def products(request):
    """Run each test with the default products of torch and with oneDNN."""
    with torch.backends.mkldnn.flags(enabled=request.param):
        yield


def fill(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return module


def index(side: str, width: int, widths: tuple[int, ...]) -> list[int]:
    """Return the active channels as a list, by a second implementation."""
    full = widths[-1]
    if side == "left":
        return list(range(width))
    if side == "right":
        return list(range(full - width, full))
    bins = [list(range(a, b)) for a, b in zip((0, *widths), widths, strict=False)]
    c = widths.index(width) + 1
    first = sum(range(1, c)) % len(widths)
    ring = [channel for b in bins[first:] + bins[:first] for channel in b]
    return ring[:width]


def plain(rows: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = (Linear if torch.backends.mkldnn.enabled else nn.Linear)(rows.shape[1], rows.shape[0])
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.copy_(bias)
    return layer


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("widths", [SPACE.embed_widths, SearchSpace().embed_widths, (3, 7, 8, 12)])
def test_channel_slices_match_the_second_implementation(side, widths):
    for width in widths:
        runs = channel_slices(side, width, widths)
        assert [i for run in runs for i in range(run.start, run.stop)] == index(side, width, widths)
        weight = torch.arange(widths[-1] * 3).reshape(widths[-1], 3)
        assert torch.equal(take_slices(weight, runs), weight[index(side, width, widths)])
        assert torch.equal(take_slices(weight.T, None, runs), weight.T[:, index(side, width, widths)])


@pytest.mark.parametrize(("side", "i"), GRID)
def test_linear(side, i):
    layer = fill(ElasticLinear(20, 30))
    out, in_ = SPACE.mlp_widths[i], SPACE.embed_widths[9 - i]
    rows, cols = index(side, out, SPACE.mlp_widths), index(side, in_, SPACE.embed_widths)
    x = torch.randn(3, 4, in_)
    expected = plain(layer.weight[rows][:, cols], layer.bias[rows])(x)
    runs = channel_slices(side, out, SPACE.mlp_widths), channel_slices(side, in_, SPACE.embed_widths)
    assert torch.equal(layer(x, [runs[0]], [runs[1]]), expected)
    assert torch.equal(layer(x, [None], [runs[1]]), plain(layer.weight[:, cols], layer.bias)(x))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 17, 9, 30), (64, 33, 230), (5, 720, 48)])
def test_linear_matches_torch_with_gradients(shape):
    *batch, in_, out = shape
    found = []
    for function in (linear, nn.functional.linear):
        generator = torch.Generator().manual_seed(0)
        sizes = (*batch, in_), (out, in_), (out,)
        x, weight, bias = (torch.randn(s, generator=generator, requires_grad=True) for s in sizes)
        y = function(x, weight, bias)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.parametrize(("side", "i"), GRID)
def test_norm(side, i):
    layer = fill(ElasticNorm(20))
    width = SPACE.embed_widths[i]
    cols = index(side, width, SPACE.embed_widths)
    expected = nn.LayerNorm(width, eps=1e-6)
    with torch.no_grad():
        expected.weight.copy_(layer.weight[cols])
        expected.bias.copy_(layer.bias[cols])
    x = torch.randn(3, 4, width)
    assert torch.equal(layer(x, [channel_slices(side, width, SPACE.embed_widths)]), expected(x))


@pytest.mark.parametrize(("side", "i"), GRID)
def test_stem(side, i):
    stem = fill(ElasticStem(SPACE, 8))
    width = SPACE.embed_widths[i]
    cols = index(side, width, SPACE.embed_widths)
    images = torch.randn(2, 3, 16, 16)
    tokens = nn.functional.conv2d(images, stem.weight[cols], stem.bias[cols], stride=8).flatten(2).transpose(1, 2)
    tokens = torch.cat([stem.cls_token[..., cols].expand(2, -1, -1), tokens], 1) + stem.pos_embed[..., cols]
    actual = stem(patchify(images, 8), [channel_slices(side, width, SPACE.embed_widths)])
    torch.testing.assert_close(actual, tokens, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("side", "i"), GRID)
def test_mlp(side, i):
    mlp = fill(ElasticMlp(SPACE))
    layer, D = LayerSpec(1, 6, SPACE.mlp_widths[i]), SPACE.embed_widths[9 - i]
    hidden, embed = index(side, layer.mlp_dim, SPACE.mlp_widths), index(side, D, SPACE.embed_widths)
    fc1 = plain(mlp.fc1.weight[hidden][:, embed], mlp.fc1.bias[hidden])
    fc2 = plain(mlp.fc2.weight[embed][:, hidden], mlp.fc2.bias[embed])
    x = torch.randn(2, 5, D)
    expected = nn.Sequential(fc1, nn.GELU(), fc2)(x)
    assert torch.equal(mlp(x, layer, [side], [channel_slices(side, D, SPACE.embed_widths)]), expected)


@pytest.mark.parametrize(("side", "i"), GRID)
@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("heads", [1, 2])
def test_attention_matches_torch(side, i, mode, heads):
    """Reference: ``nn.MultiheadAttention`` with embed_dim a, between the projections of the residual stream."""
    attn = fill(ElasticAttention(SPACE, mode))
    a, D = SPACE.attn_widths[i], SPACE.embed_widths[9 - i]
    rows, embed = index(side, a, SPACE.attn_widths), index(side, D, SPACE.embed_widths)
    private = {0: "", 1: "v", 2: "qk"}[mode]
    x = torch.randn(2, 5, D)
    q, k, v = (
        plain(attn.get_parameter(f"{p}{s}_weight")[rows][:, embed], attn.get_parameter(f"{p}{s}_bias")[rows])(x)
        for p, s in ((p, heads if p in private else "") for p in "qkv")
    )
    reference = nn.MultiheadAttention(a, heads, bias=False, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.eye(a).repeat(3, 1))
        reference.out_proj.weight.copy_(torch.eye(a))
    proj = plain(attn.proj.weight[embed][:, rows], attn.proj.bias[embed])
    expected = proj(reference(q, k, v, need_weights=False)[0])
    actual = attn(x, LayerSpec(heads, 3 * a, 3), [side], [channel_slices(side, D, SPACE.embed_widths)])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_single_slice_is_a_view():
    weight = torch.randn(20, 20)
    cut = take_slices(
        weight, channel_slices("right", 10, SPACE.embed_widths), channel_slices("left", 4, SPACE.embed_widths)
    )
    assert cut.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("measured", [False, True], ids=["mkl", "onednn"])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("needs", [False, True])
def test_gradients_of_both_sides_match_torch_with_either_library(measured, gelu, needs, monkeypatch):
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: measured)
    layer, both = fill(ElasticLinear(20, 30)), (0, 10)
    x = torch.randn(4, 3, 12, requires_grad=needs)
    sides = [(slice(first, first + 12),) for first in (0, 8)], [(slice(first, first + 9),) for first in both]
    found = []
    for ours in (True, False):
        if ours:
            y = layer(x, sides[1], sides[0], gelu=gelu)
        else:
            parts = (nn.functional.gelu(x) if gelu else x).chunk(2)
            y = torch.cat([
                nn.functional.linear(part, layer.weight[out][:, in_], layer.bias[out])
                for part, (out,), (in_,) in zip(parts, sides[1], sides[0], strict=True)
            ])  # fmt: skip
        inputs = [layer.weight, layer.bias, *([x] if needs else [])]
        found.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)

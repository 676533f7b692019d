"""Linear layers and MLP on packed tensors against torch, one side after the other, with gradients."""

import pytest
import torch
from torch.nn import functional as F

from vitas_ds.models import matmul
from vitas_ds.models.linear import linear, mlp

SHAPES = [(1, 1, 1), (2, 17, 9, 30), (64, 33, 230), (5, 720, 48)]


@pytest.fixture(params=[False, True], ids=["torch", "onednn"], autouse=True)
def products(request):
    """Run each test with the default products of torch and with oneDNN."""
    with torch.backends.mkldnn.flags(enabled=request.param):
        yield


def assert_matches(ours, reference, inputs: list[torch.Tensor], needs: bool = True) -> None:
    """Compare outputs and gradients. ``needs``: the first input requires a gradient."""
    found = []
    for function in (ours, reference):
        values = [x.clone().requires_grad_(needs or i > 0) for i, x in enumerate(inputs)]
        y = function(*values)
        found.append([y, *torch.autograd.grad(y.square().sum(), values[0 if needs else 1 :])])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("needs", [False, True])
@pytest.mark.parametrize("measured", [False, True], ids=["mkl", "onednn"])
def test_linear_matches_torch(shape, sides, needs, measured, monkeypatch):
    monkeypatch.setattr(matmul, "onednn_is_faster", lambda: measured)
    *batch, in_, out = shape
    torch.manual_seed(0)
    inputs = [torch.randn(sides, *batch, in_), torch.randn(sides, out, in_), torch.randn(sides, out)]

    def reference(x, weight, bias):
        return torch.stack([F.linear(*side) for side in zip(x, weight, bias, strict=True)])

    assert_matches(linear, reference, inputs, needs)


def test_sides_can_share_their_input():
    """The patches of an image are the same for all sides."""
    x, weight, bias = torch.randn(4, 9, 12), torch.randn(2, 5, 12), torch.randn(2, 5)
    shared = linear(x.expand(2, *x.shape), weight, bias)
    assert torch.equal(shared, linear(torch.stack([x, x]), weight, bias))


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("widths", [(6, 11, 6), (20, 7, 20)])
def test_mlp_matches_torch(sides, widths):
    in_, hidden, out = widths
    torch.manual_seed(0)
    shapes = (sides, 3, 4, in_), (sides, hidden, in_), (sides, hidden), (sides, out, hidden), (sides, out)

    def reference(x, w1, b1, w2, b2):
        return torch.stack([
            F.linear(F.gelu(F.linear(x[s], w1[s], b1[s])), w2[s], b2[s]) for s in range(sides)
        ])  # fmt: skip

    assert_matches(mlp, reference, [torch.randn(shape) for shape in shapes])


@pytest.mark.parametrize("sides", [1, 2])
def test_compiled_and_eager_results_agree(sides, monkeypatch):
    x, weight, bias = torch.randn(sides, 3, 4, 12), torch.randn(sides, 5, 12), torch.randn(sides, 5)
    layers = torch.randn(sides, 12, 5), torch.randn(sides, 12)
    eager = linear(x, weight, bias), mlp(x, weight, bias, *layers)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for actual, expected in zip((linear(x, weight, bias), mlp(x, weight, bias, *layers)), eager, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)

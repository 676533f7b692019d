"""Attention and its gradients against the formula, in float64 for bf16."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from vitas_ds.models import attention as module
from vitas_ds.models.attention import attend, attention

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # relative to the largest element; bf16 has 8 bits


def inputs(heads, width, queries, dtype, tokens=7, batch=3):
    """Return (qkv,), or (q, kv) for ``queries``."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, tokens, 3, heads, width)]
    if queries:
        shapes = [(batch, queries, heads, width), (batch, tokens, 2, heads, width)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def formula(*packed, scale):
    q, k, v = [x.transpose(1, 2) for p in packed for x in (p.unbind(2) if p.ndim == 5 else (p,))]
    return ((q @ k.mT * scale).softmax(-1) @ v).transpose(1, 2).flatten(2)


def with_gradients(function, packed, scale=0.4):
    packed = [x.clone().requires_grad_() for x in packed]
    y = function(*packed, scale=scale)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    return y.detach(), *torch.autograd.grad((y * weights.to(y.dtype)).sum(), packed)


def assert_equals_formula(packed):
    dtype = packed[0].dtype
    found = with_gradients(attention if len(packed) == 1 else attend, packed)
    for actual, expected in zip(found, with_gradients(formula, [x.double() for x in packed]), strict=True):
        assert actual.dtype == dtype and actual.shape == expected.shape
        assert (actual.double() - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("queries", [None, 1, 5])
@pytest.mark.parametrize("width", [1, 3, 9, 16, 21, 24, 25, 30, 32])  # of a head
@pytest.mark.parametrize("heads", [1, 3])
def test_output_and_gradients_equal_the_formula(heads, width, queries, dtype):
    assert_equals_formula(inputs(heads, width, queries, dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [9, 32])
@pytest.mark.parametrize("chunk", [1, 100, 200])  # one head or sample, two heads, one sample
def test_chunks_do_not_change_the_result(chunk, width, dtype, monkeypatch):
    packed = inputs(3, width, None, dtype)
    expected = with_gradients(attention, packed)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk)
    for actual, value in zip(with_gradients(attention, packed), expected, strict=True):
        torch.testing.assert_close(actual, value)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [9, 32])
def test_inputs_and_gradients_keep_their_values(width, dtype):
    """Gradients must not share memory with the inputs, which the projections still need."""
    packed = inputs(1, width, None, dtype)
    before = packed[0].clone()
    packed[0].requires_grad_()
    first = attention(*packed, scale=1.0)
    grads = [torch.autograd.grad(first.sum(), packed, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(packed[0], before) and torch.equal(*grads)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [9, 32])
def test_zero_channels_do_not_change_the_result(width, dtype):
    """Callers may pad heads; the scale stays that of the true width."""
    packed = inputs(3, width, None, dtype)

    def padded(qkv, scale):
        y = attention(torch.nn.functional.pad(qkv, (0, 7)), scale)
        return y.unflatten(-1, (3, -1))[..., :width].flatten(-2)

    for actual, expected in zip(with_gradients(padded, packed), with_gradients(attention, packed), strict=True):
        assert (actual - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()


def test_one_tensor_holds_all_gradients():
    """Autograd must not assemble the gradient of qkv from those of its parts."""
    (qkv,) = inputs(3, 32, None, torch.bfloat16)
    y = attention(qkv.requires_grad_(), 1.0)
    assert [type(node).__name__ for node, _ in y.grad_fn.next_functions if node] == ["AccumulateGrad"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_other_kernels_of_torch_can_be_selected(dtype):
    """Other dtypes and disabled flash kernels use torch's own attention, whose math torch's FLOP counter counts."""
    packed = inputs(3, 9, None, dtype)
    with sdpa_kernel(SDPBackend.MATH):
        found = with_gradients(attention, packed)
    for actual, expected in zip(found, with_gradients(formula, [x.double() for x in packed]), strict=True):
        assert (actual.double() - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [9, 32])
def test_gradient_checkpointing_changes_nothing(width, dtype):
    packed = inputs(3, width, None, dtype)

    def recomputed(qkv, scale):
        return checkpoint(attention, qkv, scale, use_reentrant=False)

    for actual, expected in zip(with_gradients(recomputed, packed), with_gradients(attention, packed), strict=True):
        assert torch.equal(actual, expected)


def test_export_uses_the_public_operator():
    class Net(torch.nn.Module):
        def forward(self, qkv):
            return attention(qkv, 0.5)

    packed = inputs(3, 9, None, torch.float32)
    program = torch.export.export(Net(), tuple(packed))
    assert "scaled_dot_product_attention" in str(program.graph)
    torch.testing.assert_close(program.module()(*packed), formula(*packed, scale=0.5))

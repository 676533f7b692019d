"""Residual addition and layer norm against ``F.layer_norm`` on the true width, with gradients."""

import pytest
import torch
from torch.nn import functional as F

from vitas_ds.models.norm import add_norm


def inputs(sides: int, width: int, padding: int, branch: bool) -> list[torch.Tensor | None]:
    torch.manual_seed(0)
    x, y = (F.pad(torch.randn(sides, 3, 4, width, dtype=torch.float64), (0, padding)) for _ in range(2))
    weight, bias = (F.pad(torch.randn(sides, width, dtype=torch.float64), (0, padding)) for _ in range(2))
    return [x, y if branch else None, weight, bias]


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("width", "padding"), [(8, 0), (10, 6), (1, 7)])
@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("used", ["both", "normed", "total"])
@pytest.mark.parametrize("compiling", [False, True])
def test_add_norm_matches_torch(sides, width, padding, branch, used, compiling, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)

    def reference(x, y, weight, bias):
        total = x if y is None else x + y
        normed = [
            F.layer_norm(total[s][..., :width], (width,), weight[s][:width], bias[s][:width], 1e-6)
            for s in range(sides)
        ]
        return total, F.pad(torch.stack(normed), (0, padding))

    found = []
    for function in (lambda *args: add_norm(*args, width, 1e-6), reference):
        values = [None if v is None else v.clone().requires_grad_() for v in inputs(sides, width, padding, branch)]
        total, normed = function(*values)
        loss = sum(x.pow(3).sum() for x, name in ((total, "total"), (normed, "normed")) if used in (name, "both"))
        grads = torch.autograd.grad(loss, [v for v in values if v is not None], allow_unused=True)
        found.append([total, normed, *(torch.zeros(()) if g is None else g[..., :width] for g in grads)])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_padding_stays_zero():
    values = [None if v is None else v.requires_grad_() for v in inputs(2, 10, 6, True)]
    total, normed = add_norm(*values, 10, 1e-6)
    assert (normed[..., 10:] == 0).all() and (total[..., 10:] == 0).all()
    (normed.pow(3) + total).sum().backward()
    assert (values[2].grad[:, 10:] == 0).all()


def test_bf16_keeps_fp32_weights():
    x, weight = torch.randn(1, 3, 4, 16).bfloat16(), torch.full((1, 16), 1.001, requires_grad=True)
    _, normed = add_norm(x, None, weight, torch.zeros(1, 16), 16, 1e-6)
    assert normed.dtype == torch.bfloat16
    normed.float().sum().backward()
    assert weight.grad.dtype == torch.float32
